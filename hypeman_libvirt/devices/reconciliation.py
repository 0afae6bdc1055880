"""What the host is after a boot, against what it should be: bind what is missing, say the rest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.binding import Binding
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.errors import DeviceError, NotSupportedError
from hypeman_libvirt.devices.model import Caller, Registration
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.devices.ports import Host, Registry, RootHelper
from hypeman_libvirt.devices.virtual_functions import VirtualFunctionControl

_log: Final = logging.getLogger(__name__)
_SERVICE: Final = Caller("hypeman-libvirt")
"""On whose behalf the service acts by itself."""
_SEEN_CLASSES: Final = frozenset({0x01, 0x02})
"""Storage and network: of these alone it is seen whether the host uses them.

A GPU's driver may be held by a process of which the host's files say nothing.
"""


@dataclass(frozen=True, slots=True)
class Unmet:
    """A boot rule that does not hold now.

    Attributes:
        rule: What should be.
        name: Of the registration; None of a function that is not registered.
        why: What is instead, and what to do, for people.
    """

    rule: BootRule
    name: str | None
    why: str

    def __str__(self) -> str:
        """Say it in a sentence."""
        return f"{self.name or self.rule.address}: {self.why}"


class Reconciler:
    """Compares once after each start of the service or of libvirt, and when rules have changed.

    Nothing is taken from anybody: a device without a driver is bound; one on a host driver only
    where the host's use of it can be seen, and there is none.

    Attributes:
        unmet: What did not hold when it was compared last.
    """

    def __init__(
        self,
        host: Host,
        registry: Registry,
        helper: RootHelper,
        binding: Binding,
        functions: VirtualFunctionControl,
        count_losses: Callable[[], int],
    ) -> None:
        """Reconcile this host.

        Args:
            host: Asked what is.
            registry: Has what should be, and where cards were.
            helper: Has the host's boot rules.
            binding: Binds with all the checks of a bind.
            functions: Makes virtual functions likewise.
            count_losses: How often the connection to libvirt was lost.
        """
        self._host = host
        self._registry = registry
        self._helper = helper
        self._binding = binding
        self._functions = functions
        self._count_losses = count_losses
        self._done: tuple[int, Sequence[BootRule]] | None = None
        self.unmet: Sequence[Unmet] = ()

    def reconcile(self) -> Sequence[Unmet]:
        """Compare if there is a reason to, and return what does not hold.

        Raises:
            DeviceError: Host or registry does not answer.
        """
        wanted = self._registry.list_boot_rules(self._host.key())
        state = self._count_losses(), wanted
        if state != self._done:
            self.unmet = [*self._write_rules(wanted), *self._hold(wanted)]
            for each in self.unmet:
                _log.warning(
                    "not as it should be after a boot: %s",
                    each,
                    extra={"pci_address": str(each.rule.address)},
                )
            self._done = state
        return self.unmet

    def _write_rules(self, wanted: Sequence[BootRule]) -> Sequence[Unmet]:
        """Give the host the rules that it lacks, and take those of cards that have moved."""
        if not wanted:
            return []
        try:
            there = {rule.address: rule for rule in self._helper.list_boot_rules()}
            for address in self._left_behind(wanted) & there.keys():
                self._helper.forget_boot_rule(address)
        except DeviceError as error:
            return [Unmet(wanted[0], None, f"the boot rules are not seen: {error.message}")]
        missing = [rule for rule in wanted if there.get(rule.address) != rule]
        return [unmet for rule in missing if (unmet := self._write_rule(rule)) is not None]

    def _left_behind(self, wanted: Sequence[BootRule]) -> set[PciAddress]:
        """Return where cards of rules were before they were followed or moved."""
        ruled = {rule.address for rule in wanted}
        registered = self._registry.list_registrations(self._host.key(), {})
        return {
            each.moved_from
            for each in registered
            if each.moved_from is not None
            and each.pci_address in ruled
            and each.moved_from not in ruled
        }

    def _write_rule(self, rule: BootRule) -> Unmet | None:
        try:
            self._helper.write_boot_rule(rule)
        except DeviceError as error:
            return Unmet(rule, self._name(rule), f"its boot rule is missing: {error.message}")
        return None

    def _hold(self, wanted: Sequence[BootRule]) -> Sequence[Unmet]:
        found = [(rule, self._why_not(rule)) for rule in wanted]
        return [Unmet(rule, self._name(rule), why) for rule, why in found if why is not None]

    def _why_not(self, rule: BootRule) -> str | None:
        """Do what may be done for a rule; say what stands in the way, None if it holds."""
        node = self._host.node_device(rule.address)
        if node is None:
            return f"nothing is at {rule.address}; plug the card in again, or unregister it"
        if (node.vendor_id, node.device_id) != (rule.vendor_id, rule.device_id):
            return (
                f"{node.vendor_id}:{node.device_id} is at {rule.address} instead of "
                f"{rule.vendor_id}:{rule.device_id}; it is left alone"
            )
        try:
            return self._bind(node) if rule.virtual_functions is None else self._make(rule, node)
        except NotSupportedError as error:
            return error.message
        except DeviceError as error:
            return f"it is on {node.driver or 'no driver'}: {error.message}"

    def _bind(self, node: NodeDevice) -> str | None:
        if rules.is_on_vfio(node):
            return None
        registration = self._registry.find_by_device(self._host.key(), node.address)
        if registration is None:
            return f"it is on {node.driver or 'no driver'}; bind the device that shares its group"
        if node.driver is not None and not _is_seen(node):
            return (
                f"it is on {node.driver}, and it is not seen whether something uses it; "
                f"hypeman-libvirt devices bind {registration.name} takes it"
            )
        self._binding.bind(registration.id, "device", _SERVICE)
        return None

    def _make(self, rule: BootRule, node: NodeDevice) -> str | None:
        count, there = rule.virtual_functions or 0, len(node.virtual_functions)
        if there == count:
            return None
        if there:
            return (
                f"it has {there} virtual functions instead of {count}; "
                f"hypeman-libvirt devices vfs {node.address} --count {count} --persist sets them"
            )
        self._functions.set(
            str(node.address), count, _SERVICE, autoprobe=rule.autoprobe, persist=True
        )
        return None

    def _name(self, rule: BootRule) -> str | None:
        registration: Registration | None = self._registry.find_by_device(
            self._host.key(), rule.address
        )
        return registration.name if registration else None


def _is_seen(node: NodeDevice) -> bool:
    """Whether the host's use of a device is seen, so that none means that it is idle."""
    return node.class_code is not None and node.class_code >> 16 in _SEEN_CLASSES
