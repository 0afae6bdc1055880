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
from hypeman_libvirt.devices.fingerprint import fingerprint_all
from hypeman_libvirt.devices.model import Registration
from hypeman_libvirt.devices.node_device import NodeDevice
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
    address = entry.device
    if not isinstance(address, PciAddress):
        return Recovered(entry, domain, f"{address} is a mediated device; register it anew")
    known = registry.find_by_address(host.key(), address)
    if known is not None:
        same = (known.id, known.name) == (entry.id, entry.name)
        problem = f"{address} is registered already as {known.name!r} (id {known.id})"
        return Recovered(entry, domain, problem, known=same)
    node = host.node_device(address)
    if node is None:
        return Recovered(entry, domain, f"no PCI device is at {address} now")
    try:
        rules.check_assignable(node)
        registry.add(_registration(host, node, entry, clock))
    except (ConflictError, IommuUnavailableError, NotAssignableError) as error:
        return Recovered(entry, domain, error.message)
    return Recovered(entry, domain, None)


def _registration(host: Host, node: NodeDevice, entry: MetadataEntry, clock: Clock) -> Registration:
    return Registration(
        id=entry.id,
        host=host.key(),
        pci_address=node.address,
        name=entry.name,
        created_at=clock(),
        created_by=None,
        vendor_id=node.vendor_id,
        device_id=node.device_id,
        class_code=node.class_code,
        serial=node.serial,
        fingerprint=fingerprint_all(host.read_node_devices()).get(node.address),
        iommu_group=node.iommu_group,
        host_driver=rules.host_driver(node),
    )
