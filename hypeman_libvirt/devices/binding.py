"""Bind and unbind: devices between their host drivers and vfio-pci, each step read back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final

from hypeman_libvirt.devices import checks, rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.context import ChangeContext
from hypeman_libvirt.devices.errors import (
    BusyError,
    DeviceError,
    DriverNotBoundError,
    VfioUnavailableError,
)
from hypeman_libvirt.devices.model import Caller, Change, Device, Registration, Scope
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.devices.ports import Host, Registry
from hypeman_libvirt.devices.quarantine import Quarantiner
from hypeman_libvirt.devices.snapshot import Snapshot, lock_keys
from hypeman_libvirt.devices.transaction import Transaction

_log: Final = logging.getLogger(__name__)


class Drivers:
    """Moves devices between drivers, all or nothing; libvirt's success says nothing.

    The driver is read again after every step. The driver that a device had is noted in the
    registry before it is taken, so that also another process knows what it goes back to.
    """

    def __init__(self, host: Host, registry: Registry, quarantiner: Quarantiner) -> None:
        """Move devices of a host.

        Args:
            host: Drivers are read back from it.
            registry: Notes the drivers that devices had.
            quarantiner: Gets the devices that no host driver takes back.
        """
        self._host = host
        self._registry = registry
        self._quarantiner = quarantiner

    def bind(self, nodes: Iterable[NodeDevice], transaction: Transaction) -> None:
        """Bind each device that is not on a vfio driver to vfio-pci, in order.

        Raises:
            VfioUnavailableError: vfio-pci did not take one.
        """
        for node in nodes:
            if not rules.is_on_vfio(node):
                if node.driver is not None:
                    self._registry.note_host_driver(self._host.key(), node.address, node.driver)
                undo = partial(self._give_back, node, transaction)
                transaction.undo.callback(_attempt, "give back", node.address, undo)
                transaction.changes.bind(node.address)
                self._demand_vfio(node.address)

    def unbind(self, nodes: Iterable[NodeDevice], transaction: Transaction) -> None:
        """Unbind each device that is on a vfio driver, in order, for its host driver.

        A device that is known to have had no driver stays without one.

        Raises:
            DriverNotBoundError: The host driver did not take one.
        """
        for node in nodes:
            if rules.on_vfio(node.driver):
                expected = self._host_driver(node.address)
                undo = partial(self._take_again, node.address, transaction)
                transaction.undo.callback(_attempt, "bind again", node.address, undo)
                transaction.changes.unbind(node.address)
                self._demand_host_driver(node.address, expected)

    def forget(self, nodes: Iterable[NodeDevice]) -> None:
        """Forget which drivers these had: they are back on them, and there is nothing to undo."""
        for node in nodes:
            try:
                self._registry.forget_host_driver(self._host.key(), node.address)
            except DeviceError:
                _log.exception(
                    "the registry still notes a host driver of %s",
                    node.address,
                    extra={"pci_address": str(node.address)},
                )

    def give_back(self, address: PciAddress, transaction: Transaction) -> None:
        """Give a device back as far as its host driver takes it; a failure goes to the log.

        It must not be on its host driver, which would probe it again.
        """
        _attempt("give back", address, lambda: transaction.changes.unbind(address))

    def _host_driver(self, address: PciAddress) -> str | None:
        """Return the host driver that is stored for the device; None without one."""
        key = self._host.key()
        noted = self._registry.host_driver(key, address)
        if noted is not None:
            return noted
        registration = self._registry.find_by_device(key, address)
        return registration.host_driver if registration else None

    def _driver(self, address: PciAddress) -> str | None:
        node = self._host.node_device(address)
        return node.driver if node else None

    def _demand_vfio(self, address: PciAddress) -> None:
        driver = self._driver(address)
        if not rules.on_vfio(driver):
            raise VfioUnavailableError(
                f"libvirt reported success, but vfio-pci did not take {address}: "
                f"its driver is {driver or 'none'}",
                hint="the change was undone; the kernel log of the host says why (dmesg)",
            )

    def _demand_host_driver(self, address: PciAddress, expected: str | None) -> None:
        driver = self._driver(address)
        if rules.on_vfio(driver):
            self._quarantiner.quarantine(address, f"it did not leave {driver}")
            raise DriverNotBoundError(
                f"libvirt reported success, but {address} is still on {driver}",
                hint="something on the host binds it to vfio: see driverctl and modprobe.d",
            )
        if driver is None and expected is not None:
            self._quarantiner.quarantine(address, f"{expected} did not take it back")
            raise DriverNotBoundError(
                f"libvirt reported success, but {expected} did not take {address} back",
                hint="it was put on vfio-pci again; the kernel log of the host says why (dmesg)",
            )

    def _give_back(self, node: NodeDevice, transaction: Transaction) -> None:
        """Undo a bind: only where the device is not on its host driver, which would bounce it."""
        if self._driver(node.address) == node.driver:
            return
        if self._is_group_held(node):
            _log.error(
                "%s stays on vfio-pci: a guest holds its IOMMU group",
                node.address,
                extra={"pci_address": str(node.address)},
            )
            return
        self.give_back(node.address, transaction)
        after = self._driver(node.address)
        if after != node.driver:
            was, now = node.driver or "none", after or "none"
            reason = f"after a failed bind its driver is {now}, and was {was}"
            self._quarantiner.quarantine(node.address, reason)
            _log.error(
                "%s is on %s after a failed bind, it was on %s",
                node.address,
                after,
                node.driver,
                extra={"pci_address": str(node.address)},
            )

    def _is_group_held(self, node: NodeDevice) -> bool:
        """Whether a guest runs with a member: then the host driver could not take the device."""
        members = {node.address, *node.group_addresses}
        assignments = self._host.read_assignments(members)
        return any(each.live for member in members for each in assignments.get(member, ()))

    def _take_again(self, address: PciAddress, transaction: Transaction) -> None:
        """Undo an unbind."""
        if not rules.on_vfio(self._driver(address)):
            transaction.changes.bind(address)


class Binding:
    """Binds registered devices to vfio-pci, and gives them back to their host drivers."""

    def __init__(self, context: ChangeContext, drivers: Drivers) -> None:
        """Bind in this context, with what moves devices between drivers."""
        self._host = context.host
        self._references = context.references
        self._snapshots = context.snapshots
        self._transactions = context.transactions
        self._on_change = context.on_change
        self._quarantiner = context.quarantiner
        self._persistence = context.persistence
        self._drivers = drivers

    def bind(
        self,
        reference: str,
        scope: Scope,
        caller: Caller,
        *,
        force: bool = False,
        persist: bool = False,
    ) -> Device:
        """Bind the device to vfio-pci, in place of its host driver.

        Args:
            reference: The device.
            scope: The device alone, or its IOMMU group.
            caller: On whose behalf.
            force: Even if the host lives on it.
            persist: At each boot as well, until it is given back or unregistered.

        Raises:
            DeviceError: A check refuses, or vfio-pci did not take it; nothing has changed then.
        """
        registration = self._references.find(reference)

        def bind(transaction: Transaction) -> Device:
            snapshot = self._snapshots.read("bind", registration, scope)
            return self.bind_within(
                transaction, registration, snapshot, caller, force=force, persist=persist
            )

        keys = self._snapshots.lock_keys(registration.device)
        return self._transactions.run(keys, bind)

    def unbind(self, reference: str, scope: Scope, caller: Caller) -> Device:
        """Unbind the device from vfio-pci, and give it back to its host driver.

        Raises:
            InUseError: A domain holds it, or a member of its IOMMU group.
            DriverNotBoundError: The host driver did not take it; it is on vfio-pci as before.
        """
        registration = self._references.find(reference)

        def unbind(transaction: Transaction) -> Device:
            snapshot = self._snapshots.read("unbind", registration, scope)
            checks.guard(snapshot)
            return self.unbind_within(transaction, registration, snapshot, caller)

        keys = self._snapshots.lock_keys(registration.device)
        return self._transactions.run(keys, unbind)

    def bind_within(
        self,
        transaction: Transaction,
        registration: Registration,
        snapshot: Snapshot,
        caller: Caller,
        *,
        force: bool = False,
        persist: bool = False,
    ) -> Device:
        """Check and bind as a step of an operation."""
        self._quarantiner.quarantine_silent(snapshot.silent)
        checks.guard(snapshot, force=force)
        demand_locks(snapshot, transaction)
        before = device_of(registration, snapshot)
        after = replace(before, registration=replace(registration, persistent=True))
        if persist:
            self._persistence.bind_at_boot(snapshot, transaction.undo)
        if not snapshot.todo:
            return after if persist else before
        self._drivers.bind(snapshot.todo, transaction)
        after = self._read_back(after if persist else before)
        forced = force and bool(snapshot.uses)
        self._on_change(Change("bind", caller, before, after, forced))
        return after

    def unbind_within(
        self,
        transaction: Transaction,
        registration: Registration,
        snapshot: Snapshot,
        caller: Caller,
    ) -> Device:
        """Unbind as a step of an operation, after its checks."""
        demand_locks(snapshot, transaction)
        before = device_of(registration, snapshot)
        self._persistence.end([node.address for node in snapshot.taking], transaction.undo)
        ended = replace(before, registration=replace(registration, persistent=False))
        if not snapshot.todo:
            return ended
        self._drivers.unbind(snapshot.todo, transaction)
        after = self._read_back(ended)
        self._drivers.forget(snapshot.todo)
        self._on_change(Change("unbind", caller, before, after))
        return after

    def _read_back(self, before: Device) -> Device:
        """Return the device with its driver of now; who has it is as it was under the locks."""
        node = self._host.node_device(before.registration.pci_address)
        return replace(before, node=node)


def device_of(registration: Registration, snapshot: Snapshot) -> Device:
    """Return a registered device as it was at the moment of a snapshot."""
    return Device(
        registration, snapshot.node, snapshot.assignment, snapshot.verdict, snapshot.quarantine
    )


def demand_locks(snapshot: Snapshot, transaction: Transaction) -> None:
    """Refuse to act on a group that is not the one that was locked.

    Raises:
        BusyError: The device has changed its IOMMU group, or the group its members, meanwhile.
    """
    if not transaction.lock_keys.issuperset(lock_keys(snapshot.address, snapshot.node)):
        raise BusyError(f"the IOMMU group of {snapshot.address} has changed", hint="try again")


def _attempt(what: str, address: PciAddress, step: Callable[[], None]) -> None:
    """Take a step of an undo; the error that made it necessary is the one to report."""
    try:
        step()
    except DeviceError:
        _log.exception("could not %s %s", what, address, extra={"pci_address": str(address)})
