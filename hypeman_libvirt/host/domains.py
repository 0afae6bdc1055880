"""Domains: who holds which PCI function, and giving and taking them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Final

import libvirt

from hypeman_libvirt.devices.address import HostDeviceId, PciAddress
from hypeman_libvirt.devices.errors import (
    DeviceError,
    NoFreeSlotError,
    NotAttachedError,
    NotSupportedError,
)
from hypeman_libvirt.devices.model import Assignment, Domain, MetadataEntry
from hypeman_libvirt.devices.ports import AssignmentsByDevice
from hypeman_libvirt.host.connection import Connection
from hypeman_libvirt.host.errors import Meanings, is_gone
from hypeman_libvirt.host.xml.domain import (
    DEVICES_NAMESPACE,
    NAMESPACE_PREFIX,
    DomainXml,
    build_hostdev,
    build_metadata,
    parse_metadata,
)
from hypeman_libvirt.host.xml.guest_slots import build_functions, list_hot_slots, shares_slot

_LIVE: Final = libvirt.VIR_DOMAIN_AFFECT_LIVE
_CONFIG: Final = libvirt.VIR_DOMAIN_AFFECT_CONFIG
_STATES: Final = {
    libvirt.VIR_DOMAIN_NOSTATE: "no state",
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "idle",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "in shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "pmsuspended",
}
"""The words of ``virsh domstate``."""
_HOTPLUG_MEANINGS: Final[Meanings] = {
    (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_DOMAIN): (
        NoFreeSlotError,
        (
            "the running domain has no free PCI slot for the device; shut it off first, "
            "or add a controller of model pcie-root-port to its definition"
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class DomainAssignments:
    """What one domain holds.

    Attributes:
        persistent: libvirt keeps its definition.
        assignments: One for each PCI function; empty for most domains.
    """

    persistent: bool
    assignments: Sequence[Assignment]


def by_address(domains: Iterable[DomainAssignments]) -> AssignmentsByDevice:
    """Say which domains hold which address, active ones first."""
    found = [assignment for domain in domains for assignment in domain.assignments]
    assignments: dict[HostDeviceId, list[Assignment]] = defaultdict(list)
    for assignment in sorted(found, key=lambda each: (not each.live, not each.domain.active)):
        assignments[assignment.device].append(assignment)
    return dict(assignments)


class Domains:
    """libvirt's domains over one connection."""

    def __init__(self, connection: Connection) -> None:
        """Ask over this connection."""
        self._connection = connection

    def list_domains(self) -> Sequence[Domain]:
        """List all, active or not."""
        return self._connection.read("listAllDomains", lambda c: list(_list_domains(c)))

    def find(self, instance: str) -> Domain | None:
        """Look up by UUID, name or instance id, in this order."""
        domains = self.list_domains()
        by_uuid = (each for each in domains if each.uuid == instance.lower())
        by_name = (each for each in domains if each.name == instance)
        by_instance_id = (each for each in domains if each.instance_id == instance)
        return next(chain(by_uuid, by_name, by_instance_id), None)

    def list_assignments(self) -> AssignmentsByDevice:
        """Say which domains hold which address, active ones first."""
        return by_address(self.read_all_assignments().values())

    def read_all_assignments(self) -> Mapping[str, DomainAssignments]:
        """Say of each domain what it holds, by name."""
        return self._connection.read("listAllDomains", lambda c: dict(_list_assignments(c)))

    def read_assignments(self, name: str) -> DomainAssignments | None:
        """Say of the domain of that name what it holds; None without such a domain."""
        return self._connection.read("lookupByName", lambda c: _read_assignments(c, name))

    def attach(self, domain: Domain, addresses: Sequence[PciAddress]) -> None:
        """Give devices to the domain where it does not have them yet, all or none.

        The definition goes first, since taking it back asks no guest. libvirt hot-plugs function
        0 only, so a running guest gets each device in a slot of its own.
        """
        with ExitStack() as undo:
            if domain.persistent:
                self._attach_to_definition(domain, addresses, undo)
            if domain.active:
                self._attach_to_guest(domain, addresses, undo)
            undo.pop_all()

    def detach(self, domain: Domain, addresses: Sequence[PciAddress]) -> None:
        """Ask for devices back where the domain has them, the guest first: it may refuse.

        Raises:
            NotSupportedError: libvirt cannot unplug a function of a slot with several.
        """
        with ExitStack() as undo:
            if domain.active:
                self._detach_from_guest(domain, addresses, undo)
            if domain.persistent:
                self._detach_from_definition(domain, addresses, undo)
            undo.pop_all()

    def read_metadata(self, domain: Domain) -> Sequence[MetadataEntry]:
        """Return our entries; empty without."""
        xml = self._connection.read("metadata", lambda c: _read_metadata(_look_up(c, domain)))
        return () if xml is None else parse_metadata(xml)

    def write_metadata(self, domain: Domain, entries: Sequence[MetadataEntry]) -> None:
        """Replace our entries, for now and for the next start; others' metadata stays."""
        xml = build_metadata(entries) if entries else None
        self._connection.write(
            "setMetadata",
            lambda c: _look_up(c, domain).setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT,
                xml,
                NAMESPACE_PREFIX,
                DEVICES_NAMESPACE,
                _affected(domain),
            ),
        )

    def _attach_to_definition(
        self, domain: Domain, addresses: Sequence[PciAddress], undo: ExitStack
    ) -> None:
        definition = self._read_xml(domain, live=False)
        missing = [each for each in addresses if definition.find(each) is None]
        undo.callback(self._take_from_definition, domain, missing)
        try:
            for xml in build_functions(missing, definition):
                self._attach_device(domain, xml, _CONFIG)
        except NotSupportedError:
            self._define(definition.with_hostdevs(build_functions(missing, definition)))

    def _attach_to_guest(
        self, domain: Domain, addresses: Sequence[PciAddress], undo: ExitStack
    ) -> None:
        live = self._read_xml(domain, live=True)
        slots = list_hot_slots(live)
        for address in addresses:
            if live.find(address) is None:
                try:
                    self._attach_device(domain, build_hostdev(address, next(slots, None)), _LIVE)
                except NotSupportedError:
                    if not domain.persistent:
                        raise
                    return
                undo.callback(self._take_from_guest, domain, address)

    def _detach_from_guest(
        self, domain: Domain, addresses: Sequence[PciAddress], undo: ExitStack
    ) -> None:
        live = self._read_xml(domain, live=True)
        held = [each for address in addresses if (each := live.find(address)) is not None]
        for each in held:
            _refuse_shared_slot(live, domain, each.address)
        for each in held:
            with suppress(NotAttachedError):
                self._detach_device(domain, each.xml, _LIVE)
                again = build_hostdev(each.address, each.guest_address)
                undo.callback(self._give_again, domain, again, _LIVE)

    def _detach_from_definition(
        self, domain: Domain, addresses: Collection[PciAddress], undo: ExitStack
    ) -> None:
        definition = self._read_xml(domain, live=False)
        held = [each for address in addresses if (each := definition.find(address)) is not None]
        try:
            for each in held:
                self._detach_device(domain, each.xml, _CONFIG)
                undo.callback(self._give_again, domain, each.xml, _CONFIG)
        except NotSupportedError:
            self._define(definition.without({each.address for each in held}))

    def _take_from_definition(self, domain: Domain, addresses: Collection[PciAddress]) -> None:
        """Undo an attach as far as libvirt lets us; what it refused is in the log."""
        with suppress(DeviceError), ExitStack() as undo:
            self._detach_from_definition(domain, addresses, undo)
            undo.pop_all()

    def _take_from_guest(self, domain: Domain, address: PciAddress) -> None:
        with suppress(DeviceError):
            self._detach_device(domain, build_hostdev(address), _LIVE)

    def _give_again(self, domain: Domain, xml: str, flags: int) -> None:
        """Undo a detach; a guest that did not let go still has the device."""
        with suppress(DeviceError):
            self._attach_device(domain, xml, flags)

    def _attach_device(self, domain: Domain, xml: str, flags: int) -> None:
        self._connection.write(
            "attachDeviceFlags",
            lambda c: _look_up(c, domain).attachDeviceFlags(xml, flags),
            _HOTPLUG_MEANINGS if flags == _LIVE else None,
        )

    def _detach_device(self, domain: Domain, xml: str, flags: int) -> None:
        self._connection.write(
            "detachDeviceFlags", lambda c: _look_up(c, domain).detachDeviceFlags(xml, flags)
        )

    def _define(self, xml: str) -> None:
        self._connection.write("defineXML", lambda c: c.defineXML(xml))

    def _read_xml(self, domain: Domain, *, live: bool) -> DomainXml:
        flags = 0 if live else libvirt.VIR_DOMAIN_XML_INACTIVE
        xml = self._connection.read("XMLDesc", lambda c: _look_up(c, domain).XMLDesc(flags))
        return DomainXml(xml)


def _refuse_shared_slot(live: DomainXml, domain: Domain, address: PciAddress) -> None:
    if shares_slot(live, address):
        raise NotSupportedError(
            f"{address} is one of several functions in its slot of domain {domain.name}, and "
            "libvirt cannot unplug those from a running domain; shut it off, then detach"
        )


def _affected(domain: Domain) -> int:
    return (_LIVE if domain.active else 0) | (_CONFIG if domain.persistent else 0)


def _look_up(connection: libvirt.virConnect, domain: Domain) -> libvirt.virDomain:
    return connection.lookupByUUIDString(domain.uuid)


def _read_metadata(domain: libvirt.virDomain) -> str | None:
    try:
        return domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, DEVICES_NAMESPACE, 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return None
        raise


def _list_known(connection: libvirt.virConnect) -> Iterator[tuple[libvirt.virDomain, bool]]:
    """Iterate over all domains, and whether each is persistent."""
    persistent = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT)
    transient = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT)
    yield from ((each, True) for each in persistent)
    yield from ((each, False) for each in transient)


def _list_domains(connection: libvirt.virConnect) -> Iterator[Domain]:
    for domain, persistent in _list_known(connection):
        try:
            yield _describe(domain, DomainXml(domain.XMLDesc(0)), persistent=persistent)
        except libvirt.libvirtError as error:
            if not is_gone(error):
                raise


def _list_assignments(connection: libvirt.virConnect) -> Iterator[tuple[str, DomainAssignments]]:
    for domain, persistent in _list_known(connection):
        try:
            yield domain.name(), _assignments_of(domain, persistent=persistent)
        except libvirt.libvirtError as error:
            if not is_gone(error):
                raise


def _read_assignments(connection: libvirt.virConnect, name: str) -> DomainAssignments | None:
    try:
        domain = connection.lookupByName(name)
        return _assignments_of(domain, persistent=bool(domain.isPersistent()))
    except libvirt.libvirtError as error:
        if is_gone(error):
            return None
        raise


def _assignments_of(domain: libvirt.virDomain, *, persistent: bool) -> DomainAssignments:
    """Compare what the domain has now with what it will have after its next start."""
    now = DomainXml(domain.XMLDesc(0))
    later = now
    if now.is_live and persistent:
        later = DomainXml(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    in_now = {each.address: each for each in now.held} if now.is_live else {}
    in_later = {each.address: each for each in later.held} if persistent else {}
    both = {**in_later, **in_now}
    if not both:
        return DomainAssignments(persistent, ())
    described = _describe(domain, now, persistent=persistent)
    return DomainAssignments(
        persistent,
        [
            Assignment(described, address, address in in_now, address in in_later, held.managed)
            for address, held in both.items()
        ],
    )


def _describe(domain: libvirt.virDomain, xml: DomainXml, *, persistent: bool) -> Domain:
    return Domain(
        uuid=domain.UUIDString(),
        name=domain.name(),
        state=_STATES.get(domain.state()[0], "no state"),
        active=xml.is_live,
        persistent=persistent,
        instance_id=xml.instance_id,
        numa_nodes=xml.numa_nodes,
    )
