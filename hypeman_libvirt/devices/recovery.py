"""Getting lost registrations back from the domains that hold the devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.domain import Domain, MetadataEntry
from hypeman_libvirt.devices.errors import (
    ConflictError,
    IommuUnavailableError,
    LibvirtFailedError,
    NotAssignableError,
)
from hypeman_libvirt.devices.model import Caller
from hypeman_libvirt.devices.new_registration import RegistrationFactory
from hypeman_libvirt.devices.ports import Clock, Host, Registry


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of one entry in a domain's metadata.

    Attributes:
        entry: As it stands there; None where the domain's metadata cannot be read.
        domain: Name of the domain.
        problem: Why it was not registered, for people; None when it was.
        known: It is registered already, as it stands there.
    """

    entry: MetadataEntry | None
    domain: str
    problem: str | None
    known: bool = False


def recover(host: Host, registry: Registry, clock: Clock) -> Sequence[Recovered]:
    """Register anew, under the same ids and names, what domains say they hold.

    What is registered already stays as it is. Tags, the time and the subject of the registration
    are not in the metadata and cannot be recovered.
    """
    return [
        recovered
        for domain in host.list_domains()
        for recovered in _recover_domain(host, registry, clock, domain)
    ]


def _recover_domain(
    host: Host, registry: Registry, clock: Clock, domain: Domain
) -> Sequence[Recovered]:
    try:
        entries = host.read_metadata(domain)
    except LibvirtFailedError as error:
        return [Recovered(None, domain.name, f"its metadata cannot be read: {error.message}")]
    return [_recover(host, registry, clock, entry, domain.name) for entry in entries]


def _recover(
    host: Host, registry: Registry, clock: Clock, entry: MetadataEntry, domain: str
) -> Recovered:
    device = entry.device
    known = registry.find_by_device(host.key(), device)
    if known is not None:
        same = (known.id, known.name) == (entry.id, entry.name)
        problem = f"{device} is registered already as {known.name!r} (id {known.id})"
        return Recovered(entry, domain, problem, known=same)
    node = host.node_device(device)
    if node is None:
        what = "PCI device is at" if isinstance(device, PciAddress) else "mediated device is"
        return Recovered(entry, domain, f"no {what} {device} now")
    try:
        rules.check_assignable(node)
        factory = RegistrationFactory(host, clock, lambda: entry.id)
        registry.add(factory.make(node, entry.name, {}, Caller()))
    except (ConflictError, IommuUnavailableError, NotAssignableError) as error:
        return Recovered(entry, domain, error.message)
    return Recovered(entry, domain, None)
