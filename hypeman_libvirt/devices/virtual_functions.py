"""SR-IOV virtual functions: how many a physical function has, and who has each of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from hypeman_libvirt.devices import checks, rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.context import ChangeContext
from hypeman_libvirt.devices.errors import (
    DeviceError,
    DeviceNotFoundError,
    LibvirtFailedError,
    NoVirtualFunctionsError,
)
from hypeman_libvirt.devices.function_checks import count_possible
from hypeman_libvirt.devices.model import Caller, Change, GroupMember, Registration
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.devices.ports import RootHelper
from hypeman_libvirt.devices.snapshot import Snapshot, lock_keys
from hypeman_libvirt.devices.transaction import Transaction

_log: Final = logging.getLogger(__name__)
_PAUSE: Final = 0.05
"""Seconds between two looks at what libvirt lists."""


@dataclass(frozen=True, slots=True)
class VirtualFunctions:
    """The virtual functions of a physical function.

    Attributes:
        physical: The physical function.
        total: How many it can have.
        persistent: The host makes as many at boot.
        functions: Those that are enabled, by address.
    """

    physical: NodeDevice
    total: int
    persistent: bool
    functions: Sequence[GroupMember]


class VirtualFunctionControl:
    """Reads and sets how many virtual functions there are.

    The physical function need not be registered: it stays with the host.
    """

    def __init__(
        self,
        context: ChangeContext,
        helper: RootHelper,
        *,
        patience: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set them in this context.

        Args:
            context: The host, and what is stored about its devices.
            helper: Writes their number, as root.
            patience: Seconds until libvirt lists new ones; it hears of them from udev.
            monotonic: Seconds on a clock that is never set.
        """
        self._host = context.host
        self._registry = context.registry
        self._references = context.references
        self._snapshots = context.snapshots
        self._transactions = context.transactions
        self._on_change = context.on_change
        self._helper = helper
        self._persistence = context.persistence
        self._patience = patience
        self._monotonic = monotonic

    def read(self, reference: str) -> VirtualFunctions:
        """Return the virtual functions of a device, registered or not.

        Raises:
            NotFoundError: No device is known by the reference.
            NoVirtualFunctionsError: It has no SR-IOV.
        """
        found = self._references.find_function(reference)
        return self._describe(self._node(_function_of(found)))

    def set(
        self,
        reference: str,
        count: int,
        caller: Caller,
        *,
        autoprobe: bool = False,
        persist: bool = False,
    ) -> VirtualFunctions:
        """Make exactly so many; the kernel goes from one number to another through none.

        Args:
            reference: The physical function.
            count: 0 for none.
            caller: On whose behalf.
            autoprobe: Whether the host's drivers take them.
            persist: Whether the host makes them at boot, too; False ends that.

        Raises:
            DeviceError: A check refuses, or the kernel does; there are as many as before then.
        """
        found = self._references.find_function(reference)
        address = _function_of(found)

        def set_count(transaction: Transaction) -> VirtualFunctions:
            self._lock_functions(transaction, address)
            snapshot = self._snapshots.read("virtual_functions", found, count=count)
            checks.guard(snapshot)
            physical = self._node(address)
            return self._set(transaction, snapshot, physical, count, caller, autoprobe, persist)

        return self._transactions.run(self._snapshots.lock_keys(address), set_count)

    def _lock_functions(self, transaction: Transaction, address: PciAddress) -> None:
        """Lock the virtual functions, too, with their groups: they may be about to be attached."""
        for function in self._node(address).virtual_functions:
            transaction.lock(lock_keys(function, self._host.node_device(function)))

    def _set(
        self,
        transaction: Transaction,
        snapshot: Snapshot,
        physical: NodeDevice,
        count: int,
        caller: Caller,
        autoprobe: bool,
        persist: bool,
    ) -> VirtualFunctions:
        before = len(physical.virtual_functions)
        if count != before or (count and physical.autoprobe == (not autoprobe)):
            transaction.undo.callback(self._restore, physical)
            self._helper.set_virtual_functions(physical.address, count, autoprobe=autoprobe)
            self._await(physical.address, count)
        self._persist(transaction, physical, count if persist else None, autoprobe)
        after = self._describe(self._node(physical.address))
        _log.info(
            "%s has %d virtual functions, it had %d",
            physical.address,
            count,
            before,
            extra={"pci_address": str(physical.address), "subject": caller.subject},
        )
        self._on_change(Change("set_virtual_functions", caller, snapshot.device, snapshot.device))
        return after

    def _await(self, physical: PciAddress, count: int) -> None:
        """Wait until libvirt lists them: the helper's success does not say that it does."""
        give_up = self._monotonic() + self._patience
        while True:
            functions = self._node(physical).virtual_functions
            listed = [each for each in functions if self._host.node_device(each) is not None]
            if len(listed) == len(functions) == count:
                return
            if self._monotonic() >= give_up:
                raise LibvirtFailedError(
                    f"{physical} should have {count} virtual functions, and libvirt lists "
                    f"{len(listed)}",
                    hint="the change was undone; the kernel log of the host says why (dmesg)",
                )
            time.sleep(_PAUSE)

    def _restore(self, physical: NodeDevice) -> None:
        """Undo: as many as there were."""
        count = len(physical.virtual_functions)
        try:
            if len(self._node(physical.address).virtual_functions) == count:
                return
            self._helper.set_virtual_functions(
                physical.address, count, autoprobe=bool(physical.autoprobe)
            )
        except DeviceError:
            _log.exception(
                "could not give %s its %d virtual functions again",
                physical.address,
                count,
                extra={"pci_address": str(physical.address)},
            )

    def _persist(
        self, transaction: Transaction, physical: NodeDevice, count: int | None, autoprobe: bool
    ) -> None:
        """Have the host make them at boot, or no more."""
        address = physical.address
        before = self._registry.boot_rule(self._host.key(), address)
        rule = count if count is None else _boot_rule(physical, count, autoprobe)
        if rule is not None or (before and before.virtual_functions is not None):
            self._persistence.put(address, rule, transaction.undo)

    def _node(self, address: PciAddress) -> NodeDevice:
        node = self._host.node_device(address)
        if node is None:
            raise DeviceNotFoundError(
                f"no PCI device {address} on this host", hint="GET /devices/available lists them"
            )
        return node

    def _describe(self, physical: NodeDevice) -> VirtualFunctions:
        key, total = self._host.key(), count_possible(physical)
        rule = self._registry.boot_rule(key, physical.address)
        functions = physical.virtual_functions
        assignments = self._host.read_assignments(functions) if functions else {}
        nodes = [self._host.node_device(each) for each in functions]
        members = [
            GroupMember(
                node,
                self._registry.find_by_device(key, node.address),
                rules.first_assignment(assignments, node.address),
            )
            for node in nodes
            if node is not None
        ]
        persistent = rule is not None and rule.virtual_functions is not None
        return VirtualFunctions(physical, total, persistent, members)


def _boot_rule(physical: NodeDevice, count: int, autoprobe: bool) -> BootRule:
    return BootRule(
        physical.address,
        physical.vendor_id,
        physical.device_id,
        physical.topology,
        virtual_functions=count,
        autoprobe=autoprobe,
    )


def _function_of(found: Registration | PciAddress) -> PciAddress:
    """Return which PCI function is meant; a mediated device is none.

    Raises:
        NoVirtualFunctionsError: It is a mediated device.
    """
    if isinstance(found, PciAddress):
        return found
    if found.mdev is not None:
        raise NoVirtualFunctionsError(f"{found.name} is a mediated device and has no SR-IOV")
    return found.pci_address
