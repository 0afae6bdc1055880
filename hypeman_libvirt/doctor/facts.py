"""The doctor's facts, read once and not judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.domain import Assignment, MetadataEntry
from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.devices.host_identity import HostIdentity
from hypeman_libvirt.devices.model import Device, GroupReport

Severity: TypeAlias = Literal["ok", "warning", "error"]
Socket: TypeAlias = Literal["answers", "silent", "denied", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        id: Of the check, in one word.
        severity: How bad it is.
        message: The result, for people.
        cure: What mends it, a command where there is one; None where nothing is wrong.
    """

    id: str
    severity: Severity
    message: str
    cure: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine, as its kernel reports it. Only where libvirt runs on this machine.

    Attributes:
        socket: Whether libvirt's socket lets this user in.
        iommu_table: ACPI's table of the IOMMU, such as ``DMAR``; None when the firmware has none.
        groups: How many IOMMU groups the kernel made.
        command_line: Of the kernel, by words.
        vfio: Whether the kernel has vfio-pci.
        lost_mdevctl: The path by which udev's rule calls mdevctl, if nothing is there.
        limits_rights: libvirt asks polkit for each right; None where its settings cannot be read.
    """

    socket: Socket
    iommu_table: str | None
    groups: int
    command_line: Sequence[str]
    vfio: Literal["loaded", "loadable", "missing"]
    lost_mdevctl: str | None = None
    limits_rights: bool | None = None


@dataclass(frozen=True, slots=True)
class Libvirt:
    """What libvirt says, or why it does not.

    Attributes:
        identity: Which host it is.
        version: Such as ``9.0.0``.
        node_devices: How many PCI functions; the error when they cannot be listed.
        grouped: How many of them are in an IOMMU group.
        domains: The error when they cannot be read; None when they can.
        has_vfio: What the domain capabilities say; None when they do not.
        unannounced: Why libvirt does not announce what its driver could, by what changes.
        makes_vgpus: GPUs of the host are, or could be, cut into vGPUs.
    """

    identity: HostIdentity
    version: str
    node_devices: int | DeviceError
    grouped: int
    domains: DeviceError | None
    has_vfio: bool | None
    unannounced: Mapping[str, DeviceError] = field(default_factory=dict)
    makes_vgpus: bool = False


@dataclass(frozen=True, slots=True)
class RegistryFacts:
    """The registry.

    Attributes:
        location: For people.
        exists: It has been made already.
        problem: Why it cannot be read and written; None when it can.
        of_other_hosts: How many registrations belong to other hosts, by host.
        newest: When the last registration was made; None without any.
        closed: The problem is that this user may not read it.
    """

    location: str
    exists: bool
    problem: str | None
    of_other_hosts: Mapping[str, int]
    newest: datetime | None
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Secret:
    """What tokens are signed with; never the secret itself.

    Attributes:
        file: Where it is read from; None where it is a setting itself, or where there is none.
        problem: Why the service would not start with it; None when it would.
        closed: The problem is that this user may not read it.
    """

    file: str | None
    problem: str | None
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Unit:
    """The service's unit, as systemd has it.

    Attributes:
        name: With its suffix.
        active: systemd's ActiveState, such as ``active`` or ``failed``.
        detail: systemd's SubState, such as ``running`` or ``auto-restart``.
        enabled: systemd's UnitFileState, such as ``enabled``.
        restarts: How often systemd has restarted it by itself.
        since: When it ended last, or else changed last; for people.
        last_line: Of its log; None where it wrote nothing, or this user may not read it.
    """

    name: str
    active: str
    detail: str
    enabled: str
    restarts: int
    since: str
    last_line: str | None


@dataclass(frozen=True, slots=True)
class Noted:
    """An entry in a domain's metadata.

    Attributes:
        domain: Its name.
        entry: Of a registered device.
    """

    domain: str
    entry: MetadataEntry


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A domain whose note of the devices that it holds cannot be read.

    Attributes:
        domain: Its name.
        error: Why.
    """

    domain: str
    error: DeviceError


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything.

    Attributes:
        machine: None for a remote host, and for one that is made up.
        libvirt: What it says; the error when no connection could be opened.
        registry: Always.
        devices: Registered devices of the host; empty when they cannot be read.
        asks_for_tokens: Whether the service does.
        secret: What they are signed with.
        listen: Where the service listens.
        listens_locally: Only this machine can connect.
        speaks_tls: The service has a certificate.
        now: The clock.
        exposed: Files with the secret or the registry that others can read or change.
        groups: The host's IOMMU groups; empty when they cannot be read.
        noted: What domains' metadata says they hold, and they do not.
        misplaced: What it names elsewhere than it is registered.
        unknown_variables: A sentence for each that starts as settings do and is none.
        unit: None where no systemd knows it.
        unreadable: Domains whose metadata cannot be read.
        expecting: Domains, by a registration's id, that have its card in their definition, where
            it is not for certain.
        boot_rules: What the host is to do with functions at boot.
        vgpu_manager: NVIDIA's vGPU manager; None where no systemd knows it.
        helper: Socket of the root helper; None where no systemd knows it.
        written_rules: What the host will do at boot; the error when its file cannot be read.
    """

    machine: Machine | None
    libvirt: Libvirt | DeviceError
    registry: RegistryFacts
    devices: Sequence[Device]
    asks_for_tokens: bool
    secret: Secret
    listen: str
    listens_locally: bool
    now: datetime
    exposed: Sequence[str]
    groups: Sequence[GroupReport]
    noted: Sequence[Noted]
    unknown_variables: Sequence[str]
    unit: Unit | None
    unreadable: Sequence[Unreadable] = ()
    expecting: Mapping[str, Sequence[Assignment]] = field(default_factory=dict)
    misplaced: Sequence[Noted] = ()
    boot_rules: Sequence[BootRule] = ()
    vgpu_manager: Unit | None = None
    speaks_tls: bool = False
    helper: Unit | None = None
    written_rules: Sequence[BootRule] | DeviceError = ()
