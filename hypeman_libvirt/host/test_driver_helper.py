"""What root's helper does, for libvirt's test driver: in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.errors import DeviceNotFoundError, NotSupportedError
from hypeman_libvirt.devices.node_device import NodeDevice

_FIRST_GROUP: Final = 900
"""Above the groups of the functions in the file."""


class SetFunctions(Protocol):
    """Has so many virtual functions of a physical one."""

    def __call__(self, physical: NodeDevice, count: int, *, autoprobe: bool) -> None:
        """Have so many."""


class MemoryFunctions:
    """Virtual functions whose number was changed; all others are those of the host's file."""

    def __init__(self) -> None:
        """Begin with none that was changed."""
        self._lock = threading.Lock()
        self._made: dict[PciAddress, Mapping[PciAddress, NodeDevice]] = {}
        self._autoprobe: dict[PciAddress, bool] = {}

    def set(
        self, physical: NodeDevice, count: int, *, autoprobe: bool
    ) -> Sequence[NodeDevice] | None:
        """Have so many functions, after the physical one and without a driver unless probed.

        Returns:
            Those that were made; None where there were as many.
        """
        with self._lock:
            self._autoprobe[physical.address] = autoprobe
            if count == len(physical.virtual_functions):
                return None
            functions = [_function(physical, number, autoprobe) for number in range(count)]
            self._made[physical.address] = {each.address: each for each in functions}
            return functions

    def apply(self, node: NodeDevice) -> NodeDevice | None:
        """Return a node device of the file as it is now; None of a function that has gone."""
        with self._lock:
            if node.address in self._made:
                node = replace(node, virtual_functions=tuple(self._made[node.address]))
            if node.physical_function in self._made:
                return self._made[node.physical_function].get(node.address)
            if node.max_virtual_functions is not None:
                node = replace(node, autoprobe=self._autoprobe.get(node.address, False))
            return node

    def list_made(self) -> Sequence[NodeDevice]:
        """List the functions that were made."""
        with self._lock:
            return [each for made in self._made.values() for each in made.values()]


class TestDriverHelper:
    """The port ``RootHelper`` on libvirt's test driver."""

    def __init__(
        self,
        set_functions: SetFunctions,
        set_type: Callable[[PciAddress, int], None],
        find: Callable[[PciAddress], NodeDevice | None],
        on_change: Callable[[], None],
    ) -> None:
        """Change virtual functions so.

        Args:
            set_functions: Has so many.
            set_type: Makes one a vGPU of a type.
            find: Looks up a function.
            on_change: Called after each change, which libvirt does not announce.
        """
        self._set_functions = set_functions
        self._set_type = set_type
        self._find = find
        self._on_change = on_change
        self._rules: dict[PciAddress, BootRule] = {}

    def set_virtual_functions(self, device: PciAddress, count: int, *, autoprobe: bool) -> None:
        """Have so many."""
        physical = self._find(device)
        if physical is None:
            raise DeviceNotFoundError(f"no PCI device {device} on this host")
        self._set_functions(physical, count, autoprobe=autoprobe)
        self._on_change()

    def set_vgpu_type(self, device: PciAddress, vgpu_type: int) -> None:
        """Make it a vGPU of the type, or with 0 none."""
        self._set_type(device, vgpu_type)
        self._on_change()

    def write_boot_rule(self, rule: BootRule) -> None:
        """Note it; the host never boots."""
        self._rules[rule.address] = rule

    def forget_boot_rule(self, device: PciAddress) -> None:
        """Forget it."""
        self._rules.pop(device, None)

    def list_boot_rules(self) -> Sequence[BootRule]:
        """List them, by address."""
        return sorted(self._rules.values(), key=lambda rule: rule.address)

    def read_config_space(self, device: PciAddress) -> bytes:
        """Refuse: there is none."""
        raise NotSupportedError(f"{device} is made up and has no config space")

    def run_release_hook(self, device: PciAddress) -> None:
        """Refuse: the made-up host has no program that does anything."""
        raise NotSupportedError(f"{device} is made up, and nothing of a guest is left on it")


def _function(physical: NodeDevice, number: int, autoprobe: bool) -> NodeDevice:
    """Make a virtual function; the kernel counts on from the first one's routing id."""
    address = physical.address
    first = physical.virtual_functions[:1]
    offset = _routing(first[0]) - _routing(address) if first else 2
    routing = _routing(address) + offset + number
    own = PciAddress(address.domain, address.bus, routing >> 3 & 0x1F, routing & 7)
    group = _FIRST_GROUP + routing
    return NodeDevice(
        node_name=own.node_device_name,
        address=own,
        vendor_id=physical.vendor_id,
        device_id=f"{int(physical.device_id, 16) + 1:04x}",
        class_code=physical.class_code,
        vendor_name=physical.vendor_name,
        device_name=physical.device_name and f"{physical.device_name} Virtual Function",
        driver=physical.driver if autoprobe else None,
        iommu_group=group,
        group_addresses=(own,),
        numa_node=physical.numa_node,
        physical_function=address,
        parent=physical.parent,
        topology=physical.topology
        and f"{physical.topology.rpartition('/')[0]}/{own.slot:02x}.{own.function}",
    )


def _routing(address: PciAddress) -> int:
    return address.slot << 3 | address.function
