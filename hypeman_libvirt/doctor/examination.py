"""Gathers the doctor's facts, and changes nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.definitions import Definitions
from hypeman_libvirt.devices.domain import Assignment
from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.devices.inventory import Inventory
from hypeman_libvirt.devices.model import Device, GroupReport, Registration
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.doctor.facts import (
    Facts,
    Libvirt,
    Machine,
    Noted,
    RegistryFacts,
    Secret,
    Unit,
    Unreadable,
)
from hypeman_libvirt.file_access import is_there
from hypeman_libvirt.host.libvirt_host import LibvirtHost
from hypeman_libvirt.registry import RegistryOpenError, SqlRegistry
from hypeman_libvirt.settings import Settings, SettingsError, is_local, unknown_variables

Answer = TypeVar("Answer")


def examine(
    settings: Settings,
    host: LibvirtHost,
    machine: Machine | None,
    now: datetime,
    *,
    environment: Iterable[str] = (),
    unit: Unit | None = None,
    vgpu_manager: Unit | None = None,
    helper: Unit | None = None,
    read_rules: Callable[[], Sequence[BootRule]] = tuple,
) -> Facts:
    """Read every fact once.

    Args:
        settings: As the service would start with.
        host: Its libvirt host.
        machine: This machine, if the host is this machine.
        now: The clock.
        environment: Names of variables.
        unit: As systemd has it; None where no systemd knows it.
        vgpu_manager: Likewise NVIDIA's vGPU manager.
        helper: Likewise the root helper's socket.
        read_rules: Reads what this machine will do at boot.
    """
    libvirt = _catch(lambda: _read_libvirt(host))
    registry, devices, groups, boot_rules = _read_registry(settings, host, libvirt)
    read = _catch(lambda: _read_noted(host))
    held, noted, unreadable = ((), (), ()) if isinstance(read, DeviceError) else read
    places = {each.registration.id: each.registration.device for each in devices}
    return Facts(
        machine=machine,
        libvirt=libvirt,
        registry=registry,
        devices=devices,
        asks_for_tokens=settings.auth != "off",
        secret=_secret(settings),
        unknown_variables=list(unknown_variables(environment)),
        unit=unit,
        listen=settings.listen,
        listens_locally=is_local(settings.listen),
        speaks_tls=settings.tls_cert is not None,
        now=now,
        exposed=[str(file) for file in settings.exposed_files],
        groups=groups,
        noted=noted,
        unreadable=unreadable,
        expecting=_read_expecting(host, devices),
        misplaced=[
            each
            for each in held
            if places.get(each.entry.id, each.entry.device) != each.entry.device
        ],
        boot_rules=boot_rules,
        vgpu_manager=vgpu_manager,
        helper=helper,
        written_rules=_catch(read_rules),
    )


def _read_libvirt(host: LibvirtHost) -> Libvirt:
    host.subscribe(lambda: None)  # as the service does, so that libvirt may refuse it
    identity, version = host.identity(), host.version()
    nodes = _catch(host.list_node_devices)
    grouped = 0
    if not isinstance(nodes, DeviceError):
        grouped = len([node for node in nodes if node.iommu_group is not None])
    domains, has_vfio = _catch(host.list_assignments), _catch(host.has_vfio)
    return Libvirt(
        identity=identity,
        version=version,
        node_devices=nodes if isinstance(nodes, DeviceError) else len(nodes),
        grouped=grouped,
        domains=domains if isinstance(domains, DeviceError) else None,
        has_vfio=None if isinstance(has_vfio, DeviceError) else has_vfio,
        unannounced=host.unannounced(),
        makes_vgpus=not isinstance(nodes, DeviceError) and any(map(_makes_vgpus, nodes)),
    )


def _makes_vgpus(node: NodeDevice) -> bool:
    return bool(node.vgpu_profiles) or node.vgpu_type is not None


def _catch(ask: Callable[[], Answer]) -> Answer | DeviceError:
    try:
        return ask()
    except DeviceError as error:
        return error


def _read_registry(
    settings: Settings, host: LibvirtHost, libvirt: Libvirt | DeviceError
) -> tuple[RegistryFacts, Sequence[Device], Sequence[GroupReport], Sequence[BootRule]]:
    """Read the registry; one that does not exist is not made, since the service must own it."""
    location = settings.registry_location
    try:
        settings.check_registry_file()
    except SettingsError as error:
        closed = RegistryFacts(settings.shown_registry, True, error.message, {}, None, closed=True)
        return closed, (), (), ()
    if "://" not in location and not Path(location).exists():
        return RegistryFacts(settings.shown_registry, False, None, {}, None), (), (), ()
    try:
        with closing(SqlRegistry(location)) as registry:
            registry.check_writable()
            registrations = registry.list_all()
            inventory = Inventory(host, registry)
            devices = _catch(lambda: inventory.list_devices({}))
            groups = _catch(inventory.list_groups)
            key = None if isinstance(libvirt, DeviceError) else libvirt.identity.key
            boot_rules = registry.list_boot_rules(key) if key else ()
    except (RegistryOpenError, DeviceError) as error:
        return RegistryFacts(settings.shown_registry, True, str(error), {}, None), (), (), ()
    return (
        _describe(settings.shown_registry, registrations, key),
        () if isinstance(devices, DeviceError) else devices,
        () if isinstance(groups, DeviceError) else groups,
        boot_rules,
    )


def _read_noted(
    host: LibvirtHost,
) -> tuple[Sequence[Noted], Sequence[Noted], Sequence[Unreadable]]:
    """Read what domains note and hold, what they do not hold, and whose notes cannot be read."""
    assignments = host.list_assignments()
    held: list[Noted] = []
    noted: list[Noted] = []
    unreadable: list[Unreadable] = []
    for domain in host.list_domains():
        entries = _catch(partial(host.read_metadata, domain))
        if isinstance(entries, DeviceError):
            unreadable.append(Unreadable(domain.name, entries))
            continue
        for entry in entries:
            owners = {each.domain.uuid for each in assignments.get(entry.device, ())}
            (held if domain.uuid in owners else noted).append(Noted(domain.name, entry))
    return held, noted, unreadable


def _read_expecting(
    host: LibvirtHost, devices: Sequence[Device]
) -> Mapping[str, Sequence[Assignment]]:
    doubted = [
        each.registration
        for each in devices
        if rules.device_state(each) in {"moved", "changed"} and each.registration.mdev is None
    ]
    expecting = _catch(lambda: Definitions(host).expecting(doubted))
    return {} if isinstance(expecting, DeviceError) else expecting


def _describe(
    location: str, registrations: Sequence[Registration], key: str | None
) -> RegistryFacts:
    hosts = Counter(each.host for each in registrations)
    elsewhere = {host: count for host, count in hosts.items() if key is not None and host != key}
    newest = max((each.created_at for each in registrations), default=None)
    return RegistryFacts(location, True, None, elsewhere, newest)


def _secret(settings: Settings) -> Secret:
    file = None if settings.jwt_secret else settings.secret_file
    named = str(file) if file else None
    closed = file is not None and is_there(file) and not os.access(file, os.R_OK)
    try:
        settings.secret()
    except SettingsError as error:
        return Secret(named, error.message, closed)
    return Secret(named, None)
