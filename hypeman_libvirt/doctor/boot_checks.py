"""The doctor's checks of what holds over a reboot, and of the helper that writes it down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from hypeman_libvirt.defaults import HELPER_UNIT
from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.doctor.facts import Facts, Finding

_BOOT: Final = "boot"
_START: Final = f"systemctl enable --now {HELPER_UNIT}"
_FILE: Final = "/etc/udev/rules.d/70-hypeman-libvirt.rules"


def check_helper(facts: Facts) -> Iterator[Finding]:
    """The root helper can be asked; nothing of a host where nobody has installed it or needs it."""
    helper = facts.helper
    if helper is None:
        if facts.boot_rules and facts.machine is not None:
            message = "the root helper is not installed, and devices are persistent"
            yield Finding("helper", "warning", message, f"install its units, then {_START}")
    elif helper.active != "active" or not helper.enabled.startswith("enabled"):
        message = f"{helper.name} does not listen ({helper.active}, {helper.enabled}): virtual "
        message += "functions, vGPU types and boot rules cannot be set"
        yield Finding("helper", "warning", message, _START)
    else:
        yield Finding("helper", "ok", f"{helper.name} listens")


def check_boot(facts: Facts) -> Iterator[Finding]:
    """What should hold over a reboot is written down, and holds."""
    if facts.machine is None:
        return
    if isinstance(facts.written_rules, DeviceError):
        cure = f"remove {_FILE}, then systemctl restart hypeman-libvirt"
        yield Finding(_BOOT, "error", facts.written_rules.message, cure)
        return
    written = {rule.address: rule for rule in facts.written_rules}
    troubled = [*_missing(facts, written), *_elsewhere(facts), *_unknown(facts, written)]
    yield from troubled
    if not troubled and facts.boot_rules:
        count = len(facts.boot_rules)
        yield Finding(_BOOT, "ok", f"{count} boot rule(s) are written down, and hold")


def _missing(facts: Facts, written: Mapping[PciAddress, BootRule]) -> Iterator[Finding]:
    for rule in facts.boot_rules:
        if written.get(rule.address) != rule:
            message = f"the boot rule of {rule.address} is not in {_FILE}"
            yield Finding(_BOOT, "error", message, f"{_START}; systemctl restart hypeman-libvirt")


def _elsewhere(facts: Facts) -> Iterator[Finding]:
    """Say which devices are not on vfio-pci; virtual functions are asked about elsewhere."""
    nodes = {member.node.address: member.node for group in facts.groups for member in group.members}
    for rule in facts.boot_rules:
        if rule.virtual_functions is None:
            yield from _on_host_driver(rule, nodes.get(rule.address))


def _on_host_driver(rule: BootRule, node: NodeDevice | None) -> Iterator[Finding]:
    if node is None:
        message = f"{rule.address} is to be on vfio-pci, and nothing is there"
        yield Finding(_BOOT, "warning", message, "plug the card in again, or unregister it")
    elif (node.vendor_id, node.device_id) != (rule.vendor_id, rule.device_id):
        message = f"{rule.address} is to be on vfio-pci, and another card is there"
        yield Finding(_BOOT, "warning", message, "hypeman-libvirt devices list says where it is")
    elif not rules.is_on_vfio(node):
        message = f"{rule.address} is to be on vfio-pci, and is on {node.driver or 'no driver'}"
        yield Finding(_BOOT, "warning", message, f"hypeman-libvirt devices bind {rule.address}")


def _unknown(facts: Facts, written: Mapping[PciAddress, BootRule]) -> Iterator[Finding]:
    known = {rule.address for rule in facts.boot_rules}
    for address in sorted(written.keys() - known):
        message = f"{_FILE} has a rule of {address}, which the registry does not know"
        yield Finding(_BOOT, "warning", message, "remove its lines, if another service does not")
