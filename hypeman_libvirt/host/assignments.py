"""Which devices of the host a domain has, read from that one domain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import libvirt

from hypeman_libvirt.devices.address import HostDeviceId, MdevUuid
from hypeman_libvirt.devices.domain import Assignment, AssignmentKind, Domain
from hypeman_libvirt.devices.ports import AssignmentsByDevice
from hypeman_libvirt.host.connection import Connection
from hypeman_libvirt.host.usage.guest_usage import Trace, UntracedDevice
from hypeman_libvirt.host.xml.domain import DomainHostdev, DomainXml
from hypeman_libvirt.host.xml.guest_devices import (
    GuestDevice,
    MdevSource,
    parse_guest_devices,
)
from hypeman_libvirt.host.xml.guest_slots import shares_slot

_SHUT_OFF: Final = "shut off"
_STATES: Final = {
    libvirt.VIR_DOMAIN_NOSTATE: "no state",
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "idle",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "in shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF: _SHUT_OFF,
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "pmsuspended",
}
"""The words of ``virsh domstate``."""
NewTrace: TypeAlias = Callable[[], Trace]
"""Begins to trace: what is traced together sees the host at one moment."""


@dataclass(frozen=True, slots=True)
class DomainDevices:
    """What one definition of a domain has of the host.

    Attributes:
        held: PCI functions that the domain has itself.
        others: What it uses otherwise; on which PCI functions that lies may change at any time.
        together: PCI functions that are one of several in their guest slot.
    """

    held: Sequence[DomainHostdev]
    others: Sequence[GuestDevice]
    together: frozenset[HostDeviceId]


@dataclass(frozen=True, slots=True)
class DomainRecord:
    """One domain as it was read.

    Attributes:
        domain: Which.
        live: What it has now; None if that is nothing.
        defined: What it will have after its next start; None if that is nothing.
    """

    domain: Domain
    live: DomainDevices | None
    defined: DomainDevices | None


Records: TypeAlias = Mapping[str, DomainRecord]
"""Domains by name."""


@dataclass(frozen=True, slots=True)
class DomainsSnapshot:
    """Every domain as it was read at one moment.

    Attributes:
        records: The domains.
        trace: Says on which PCI functions lies what they use, as of the same moment.
    """

    records: Records
    trace: Trace

    def list_assignments(self) -> AssignmentsByDevice:
        """Say which domains have which device, active ones first."""
        by_device: dict[HostDeviceId, list[Assignment]] = defaultdict(list)
        assignments = [
            each for user in self._users() for each in list_assignments(user, self.trace)
        ]
        for each in sorted(assignments, key=lambda each: (not each.live, not each.domain.active)):
            by_device[each.device].append(each)
        return dict(by_device)

    def list_untraced(self) -> Sequence[UntracedDevice]:
        """Say what running domains use without it being known where that lies.

        What a definition refers to may not be there, and then nothing depends on it.
        """
        return [
            UntracedDevice(user.domain.name, each)
            for user in self._users()
            if user.live is not None
            for each in user.live.others
            if self.trace(each) is None
        ]

    def _users(self) -> Sequence[DomainRecord]:
        """List domains that have anything of the host: of many domains, most have not."""
        return [each for each in self.records.values() if each.live or each.defined]


class DomainReader:
    """Reads domains over one connection, each by itself."""

    def __init__(self, connection: Connection) -> None:
        """Ask over this connection."""
        self._connection = connection

    def read_all(self) -> Records:
        """Read every domain once."""
        return self._connection.read(
            "listAllDomains",
            lambda c: {each.domain.name: each for each in _read_each(c.listAllDomains(0))},
        )

    def read_named(self, name: str) -> DomainRecord | None:
        """Read the domain of that name; None without such a domain."""
        return self._connection.read("lookupByName", lambda c: _read_one(c.lookupByName, name))

    def read_by_uuid(self, uuid: str) -> DomainRecord | None:
        """Read the domain of that UUID; None without such a domain."""
        return self._connection.read(
            "lookupByUUIDString", lambda c: _read_one(c.lookupByUUIDString, uuid)
        )

    def read_xml(self, domain: Domain) -> str | None:
        """Return the definition for its next start, of a transient domain the live one."""
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE if domain.persistent else 0
        return self._connection.read("XMLDesc", lambda c: _read_xml(c, domain.uuid, flags))

    def list_names(self, flags: int) -> Sequence[str]:
        """List the names of domains, without reading any.

        Args:
            flags: ``VIR_CONNECT_LIST_DOMAINS_…``, which ones.
        """
        return self._connection.read(
            "listAllDomains", lambda c: [each.name() for each in c.listAllDomains(flags)]
        )


def list_assignments(record: DomainRecord, trace: Trace) -> Sequence[Assignment]:
    """Say what a domain has, directly or through a controller."""
    live = dict(_list_devices(record.live, trace))
    defined = dict(_list_devices(record.defined, trace))
    together = record.live.together if record.live else frozenset()
    return [
        Assignment(
            record.domain,
            device,
            each in live,
            each in defined,
            managed,
            kind,
            via,
            shares_slot=device in together,
        )
        for each, managed in {**defined, **live}.items()
        for device, kind, via in [each]
    ]


_Device: TypeAlias = tuple[HostDeviceId, AssignmentKind, str | None]


def _list_devices(devices: DomainDevices | None, trace: Trace) -> Iterator[tuple[_Device, bool]]:
    """Iterate over what a definition has, and whether libvirt manages it."""
    if devices is None:
        return
    for held in devices.held:
        yield (held.device, held.kind, None), held.managed
    for each in devices.others:
        yield from ((device, False) for device in _trace(each, trace))


def _trace(device: GuestDevice, trace: Trace) -> Iterator[_Device]:
    if isinstance(device.source, MdevSource):
        yield MdevUuid.parse(device.source.uuid), device.kind, None
    via = None if device.kind == "nvme_disk" else device.via
    yield from ((address, device.kind, via) for address in trace(device) or ())


def _read_xml(connection: libvirt.virConnect, uuid: str, flags: int) -> str | None:
    try:
        return connection.lookupByUUIDString(uuid).XMLDesc(flags)
    except libvirt.libvirtError as error:
        if not _has_left(error):
            raise
        return None


def _read_each(domains: Iterable[libvirt.virDomain]) -> Iterator[DomainRecord]:
    for domain in domains:
        try:
            yield _read(domain)
        except libvirt.libvirtError as error:
            if not _has_left(error):
                raise


def _read_one(look_up: Callable[[str], libvirt.virDomain], key: str) -> DomainRecord | None:
    try:
        return _read(look_up(key))
    except libvirt.libvirtError as error:
        if _has_left(error):
            return None
        raise


def _has_left(error: libvirt.libvirtError) -> bool:
    """Whether the domain is gone; one that only could not be read may have anything."""
    return error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN


def _read(domain: libvirt.virDomain) -> DomainRecord:
    """Read what the domain has now, and what it will have after its next start.

    It may start, end, be defined or undefined between two of these calls. One that is not active
    has a definition, or it would not be there; one that is may have got a definition meanwhile,
    so libvirt is asked for that after the live one was read.
    """
    xml = DomainXml(domain.XMLDesc(0))
    if not xml.is_live:
        return _record(domain, xml, None, xml)
    later = None
    if domain.isPersistent():
        later = DomainXml(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    return _record(domain, xml, xml, later)


def _record(
    domain: libvirt.virDomain, xml: DomainXml, live: DomainXml | None, later: DomainXml | None
) -> DomainRecord:
    described = Domain(
        uuid=domain.UUIDString(),
        name=domain.name(),
        state=_state_of(domain) if live else _SHUT_OFF,
        active=live is not None,
        persistent=later is not None,
        instance_id=xml.instance_id,
        numa_nodes=xml.numa_nodes,
    )
    return DomainRecord(described, _devices_of(live), _devices_of(later))


def _state_of(domain: libvirt.virDomain) -> str:
    return _STATES.get(domain.state()[0], "no state")


def _devices_of(xml: DomainXml | None) -> DomainDevices | None:
    if xml is None:
        return None
    held, others = tuple(xml.held), tuple(parse_guest_devices(xml.root))
    if not held and not others:
        return None
    together = frozenset(each.device for each in held if shares_slot(xml, each.device))
    return DomainDevices(held, others, together)
