"""A root helper that acts on a ``FakeHost`` as the real one does on a host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.errors import DeviceError, HelperFailedError, NotSupportedError

if TYPE_CHECKING:
    from tests.fake_host import FakeHost

FIRST_FUNCTION = 16
"""How far the first virtual function is from its physical one: slot 2 of the same bus."""


class FakeRootHelper:
    """Writes into the fake host; ``missing`` is one without a helper.

    ``loses_answers`` is of how many requests the answer is lost, ``makes_at_most`` how many virtual
    functions a driver really makes, ``refuses_rules`` what becomes of a boot rule. ``calls`` has
    what was asked, in order.
    """

    def __init__(self, host: FakeHost) -> None:
        self._host = host
        self.missing = False
        self.loses_answers = 0
        self.refuses_rules: DeviceError | None = None
        self.makes_at_most: int | None = None
        self.autoprobe: dict[PciAddress, bool] = {}
        self.vgpu_types: dict[PciAddress, int] = {}
        self.rules: dict[PciAddress, BootRule] = {}
        self.config_spaces: dict[PciAddress, bytes] = {}
        self.released: list[PciAddress] = []
        self.calls: list[str] = []

    def set_virtual_functions(self, device: PciAddress, count: int, *, autoprobe: bool) -> None:
        self._enter(f"set_virtual_functions {device} {count}")
        self.autoprobe[device] = autoprobe
        self._make(device, count, autoprobe=autoprobe)
        if self.loses_answers:
            self.loses_answers -= 1
            raise HelperFailedError("no answer came")

    def _make(self, device: PciAddress, count: int, *, autoprobe: bool) -> None:
        physical = self._host.pci(str(device))
        there = [each for each in self._host.functions() if each.physical_function == str(device)]
        if len(there) == count:
            return
        for each in there:
            self._host.vanish(each.name)
            del self._host.nodes[each.name]
        made = count if self.makes_at_most is None else min(count, self.makes_at_most)
        for number in range(made):
            self._host.add_pci(
                str(virtual_function(device, number)),
                vendor="15b3",
                product="101e",
                class_code="020000",
                driver=physical.host_driver if autoprobe else None,
                host_driver=physical.host_driver,
                group=200 + number,
                physical_function=str(device),
            )

    def set_vgpu_type(self, device: PciAddress, vgpu_type: int) -> None:
        self._enter(f"set_vgpu_type {device} {vgpu_type}")
        self.vgpu_types[device] = vgpu_type

    def write_boot_rule(self, rule: BootRule) -> None:
        self._enter(f"write_boot_rule {rule.address}")
        if self.refuses_rules is not None:
            error, self.refuses_rules = self.refuses_rules, None
            raise error
        self.rules[rule.address] = rule

    def forget_boot_rule(self, device: PciAddress) -> None:
        self._enter(f"forget_boot_rule {device}")
        self.rules.pop(device, None)

    def list_boot_rules(self) -> Sequence[BootRule]:
        self._enter("list_boot_rules")
        return sorted(self.rules.values(), key=lambda rule: rule.address)

    def read_config_space(self, device: PciAddress) -> bytes:
        self._enter(f"read_config_space {device}")
        return self.config_spaces.get(device, bytes(4096))

    def run_release_hook(self, device: PciAddress) -> None:
        self._enter(f"run_release_hook {device}")
        self.released.append(device)

    def _enter(self, call: str) -> None:
        self.calls.append(call)
        if self.missing:
            raise NotSupportedError("there is no root helper", hint="start it")


def virtual_function(physical: PciAddress, number: int) -> PciAddress:
    """Return where a virtual function is; the kernel adds to the routing id in this way."""
    routing = (physical.slot << 3 | physical.function) + FIRST_FUNCTION + number
    return PciAddress(physical.domain, physical.bus, routing >> 3, routing & 7)
