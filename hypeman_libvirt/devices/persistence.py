"""What holds over a reboot: boot rules, in the registry and on the host."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from typing import Final

from hypeman_libvirt.devices import checks
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.errors import DeviceError, NotSupportedError
from hypeman_libvirt.devices.ports import Host, Registry, RootHelper
from hypeman_libvirt.devices.snapshot import Snapshot

_log: Final = logging.getLogger(__name__)


class Persistence:
    """Writes boot rules down and has the host follow them, or no more.

    The host first: without a root helper nothing is stored, and nothing else is done.
    """

    def __init__(self, host: Host, registry: Registry, helper: RootHelper) -> None:
        """Store in this registry what this host is to do."""
        self._host = host
        self._registry = registry
        self._helper = helper

    def bind_at_boot(self, snapshot: Snapshot, undo: ExitStack) -> None:
        """Have the devices of a bind bound to vfio-pci at boot, too.

        Raises:
            NotSupportedError: There is no root helper; or a driver that gives a device to guests
                itself has it.
            IdentityChangedError: The card is not certainly the registered one.
        """
        checks.check_identity(snapshot)
        for node in snapshot.providers:
            raise NotSupportedError(
                f"{node.address} is on {node.driver}, which gives it to guests itself, and would "
                "lose it at boot",
                hint="bind it without persist",
            )
        for node in snapshot.taking:
            rule = BootRule(node.address, node.vendor_id, node.device_id, node.topology)
            self.put(node.address, rule, undo)

    def end(self, addresses: Iterable[PciAddress], undo: ExitStack) -> None:
        """Have these bound at boot no more; rules about virtual functions stay.

        Raises:
            NotSupportedError: One is, and there is no root helper.
        """
        key = self._host.key()
        for address in addresses:
            rule = self._registry.boot_rule(key, address)
            if rule is not None and rule.virtual_functions is None:
                self.put(address, None, undo)

    def put(self, address: PciAddress, rule: BootRule | None, undo: ExitStack) -> None:
        """Have the host follow a rule, and store it; None for none."""
        before = self._registry.boot_rule(self._host.key(), address)
        if rule == before:
            return
        with ExitStack() as step:
            step.callback(_attempt, address, lambda: self._write(address, before))
            try:
                self._write(address, rule)
            except NotSupportedError:
                step.pop_all()  # there is no helper, and nothing was done
                raise
            undo.callback(step.pop_all().close)

    def _write(self, address: PciAddress, rule: BootRule | None) -> None:
        key = self._host.key()
        if rule is None:
            self._helper.forget_boot_rule(address)
            self._registry.forget_boot_rule(key, address)
        else:
            self._helper.write_boot_rule(rule)
            self._registry.put_boot_rule(key, rule)


def ending_with(
    snapshot: Snapshot, is_registered: Callable[[PciAddress], bool]
) -> Collection[PciAddress]:
    """Return the addresses whose boot rules end with a registration.

    That is its own, and of the rest of its group what no other registration is for: it was bound
    with it.
    """
    own = snapshot.registration
    if own is None or own.displaced:
        return ()
    members = [node.address for node in snapshot.group if node.address != own.pci_address]
    return [own.pci_address, *(each for each in members if not is_registered(each))]


def _attempt(address: PciAddress, step: Callable[[], None]) -> None:
    """Take a step of an undo; the error that made it necessary is the one to report."""
    try:
        step()
    except DeviceError:
        _log.exception(
            "the boot rule of %s is not as it was", address, extra={"pci_address": str(address)}
        )
