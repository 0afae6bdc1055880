"""Getting lost registrations back from the domains that hold the devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import ConflictError
from hypeman_libvirt.devices.model import MetadataEntry, NodeDevice, Registration
from hypeman_libvirt.devices.ports import Clock, Host, Registry


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of one entry in a domain's metadata.

    Attributes:
        entry: As it stands there.
        domain: Name of the domain.
        problem: Why it was not registered, for people; None when it was.
        known: It is registered already, as it stands there.
    """

    entry: MetadataEntry
    domain: str
    problem: str | None
    known: bool = False


def recover(host: Host, registry: Registry, clock: Clock) -> Sequence[Recovered]:
    """Register anew, under the same ids and names, what domains say they hold.

    What is registered already stays as it is. Tags, the time and the subject of the registration
    are not in the metadata and cannot be recovered.
    """
    return [
        _recover(host, registry, clock, entry, domain.name)
        for domain in host.list_domains()
        for entry in host.read_metadata(domain)
    ]


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
        registry.add(_registration(host, node, entry, clock))
    except ConflictError as error:
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
        iommu_group=node.iommu_group,
        host_driver=node.driver if rules.on_host_driver(node) else None,
    )
