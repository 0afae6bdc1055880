"""Reads everything that the checks look at, once."""

from __future__ import annotations

from typing import Literal

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.checks import Snapshot
from hypeman_libvirt.devices.errors import InstanceNotFoundError
from hypeman_libvirt.devices.inventory import Inventory
from hypeman_libvirt.devices.model import Domain, Registration, Scope
from hypeman_libvirt.devices.ports import Host


class SnapshotReader:
    """What stands for and against giving a device away, as it is now."""

    def __init__(self, host: Host, inventory: Inventory) -> None:
        """Read from this host."""
        self._host = host
        self._inventory = inventory

    def snapshot(
        self,
        address: PciAddress,
        registration: Registration | None,
        scope: Scope,
        purpose: Literal["bind", "attach"],
        domain: Domain | None = None,
    ) -> Snapshot:
        """Read the device, its IOMMU group, who holds it, and what the host does with it."""
        node = self._host.node_device(address)
        group = self._inventory.group_of(node) if node else []
        endpoints = [member for member in group if rules.is_endpoint(member)]
        return Snapshot(
            address=address,
            node=node,
            registration=registration,
            group=group,
            taking=endpoints if scope == "group" else [node] if node else [],
            assignments=self._host.read_assignments(
                [member.address for member in group] or [address]
            ),
            uses=self._host.list_uses(
                [each for each in endpoints if not rules.on_vfio(each.driver)]
            ),
            has_vfio=self._host.has_vfio(),
            purpose=purpose,
            domain=domain,
        )

    def domain(self, instance: str) -> Domain:
        """Look up a domain by UUID, name or instance id.

        Raises:
            InstanceNotFoundError: libvirt knows none.
        """
        domain = self._host.find_domain(instance)
        if domain is None:
            raise InstanceNotFoundError(
                f"libvirt has no domain {instance[: rules.MAX_NAME]!r}",
                hint="give its UUID, name or instance id; virsh list --all shows them",
            )
        return domain
