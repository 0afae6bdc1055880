"""The host as a picture: every PCI function, what it hangs on, who has it and what lives on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import HostDeviceId, PciAddress
from hypeman_libvirt.devices.domain import Assignment, Domain
from hypeman_libvirt.devices.inventory import Inventory, report_groups
from hypeman_libvirt.devices.model import GroupMember, GroupReport, Quarantine
from hypeman_libvirt.devices.node_device import HostUse, NodeDevice
from hypeman_libvirt.devices.ports import AssignmentsByDevice, HostView

_USES_LAST: Final = 3.0
"""Seconds for which it is not asked anew what the host does: that reads every node device."""


@dataclass(frozen=True, slots=True)
class HostFunction:
    """A PCI function of the host, bridges included.

    Attributes:
        member: The function, its registration and the domain that has it.
        parent: The bridge that it hangs on; None at the root.
        uses: What the host itself does with it.
        users: Domains that have something which lives on it, such as a disk.
        quarantine: Why it is offered to nobody; None where it is.
    """

    member: GroupMember
    parent: PciAddress | None
    uses: Sequence[HostUse]
    users: Sequence[Assignment]
    quarantine: Quarantine | None


@dataclass(frozen=True, slots=True)
class Topology:
    """All of the host that has to do with PCI devices, read together.

    Attributes:
        functions: By address.
        groups: IOMMU groups by number.
        domains: All domains, active or not.
    """

    functions: Sequence[HostFunction]
    groups: Sequence[GroupReport]
    domains: Sequence[Domain]


class TopologyReader:
    """Reads the host as a picture. Decides over nothing."""

    def __init__(
        self,
        view: HostView,
        inventory: Inventory,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read from this view of the host.

        Args:
            view: The host, which may be a cache.
            inventory: Of the same host.
            monotonic: Seconds on a clock that is never set.
        """
        self._view = view
        self._inventory = inventory
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._uses: tuple[float, frozenset[tuple[PciAddress, str | None]], Sequence[HostUse]]
        self._uses = 0.0, frozenset(), ()

    def read(self) -> Topology:
        """Read everything once."""
        members = self._inventory.list_functions()
        nodes = [member.node for member in members if member.node.mdev is None]
        addresses = {node.node_name: node.address for node in nodes}
        assignments = self._view.list_assignments()
        uses, quarantines = self._read_uses(nodes), self._inventory.quarantines()
        functions = [
            HostFunction(
                member,
                addresses.get(member.node.parent or ""),
                () if member.node.mdev else uses.get(member.node.address, ()),
                _users(assignments, member.node.device),
                rules.in_effect(quarantines.get(member.node.device), member.assignment),
            )
            for member in members
        ]
        groups = report_groups(members)
        return Topology(functions, groups, self._view.list_domains())

    def _read_uses(self, nodes: Sequence[NodeDevice]) -> Mapping[PciAddress, Sequence[HostUse]]:
        """Return what the host does with its endpoints; of a moment ago if no driver changed."""
        endpoints = [node for node in nodes if rules.is_endpoint(node)]
        drivers = frozenset((node.address, node.driver) for node in endpoints)
        with self._lock:
            at, of, uses = self._uses
            if of != drivers or self._monotonic() - at > _USES_LAST:
                uses = self._view.list_host_uses(endpoints)
                self._uses = self._monotonic(), drivers, uses
        by_address: dict[PciAddress, list[HostUse]] = {}
        for use in uses:
            by_address.setdefault(use.address, []).append(use)
        return by_address


def _users(assignments: AssignmentsByDevice, device: HostDeviceId) -> Sequence[Assignment]:
    return [each for each in assignments.get(device, ()) if not each.direct]
