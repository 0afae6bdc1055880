"""Quarantine: a device that did not come back whole is offered to nobody until it is cleared."""

from __future__ import annotations

from dataclasses import replace

from hypeman_libvirt.devices import checks
from hypeman_libvirt.devices.address import HostDeviceId
from hypeman_libvirt.devices.binding import demand_locks, device_of
from hypeman_libvirt.devices.context import ChangeContext
from hypeman_libvirt.devices.model import Caller, Change, Device
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.devices.snapshot import Snapshot
from hypeman_libvirt.devices.transaction import Transaction


class Clearing:
    """Ends quarantines."""

    def __init__(self, context: ChangeContext) -> None:
        """End them in this context."""
        self._registry = context.registry
        self._references = context.references
        self._snapshots = context.snapshots
        self._transactions = context.transactions
        self._on_change = context.on_change

    def clear(self, reference: str, caller: Caller) -> Device:
        """End the quarantine of a device, and of members of its group that nobody has registered.

        Raises:
            NotFoundError: No registration is known by the reference.
            QuarantinedError: The device still does not answer.
            InUseError: A running domain has it.
            DriverNotBoundError: Its host driver has not taken it back, nor has vfio-pci.
            IdentityChangedError: Another card is there.
        """
        registration = self._references.find(reference)

        def clear(transaction: Transaction) -> Device:
            snapshot = self._snapshots.read("clear", registration)
            checks.guard(snapshot)
            demand_locks(snapshot, transaction)
            before = device_of(registration, snapshot)
            for device in self._to_clear(snapshot):
                self._registry.end_quarantine(registration.host, device)
            after = replace(before, quarantine=None)
            self._on_change(Change("clear", caller, before, after))
            return after

        keys = self._snapshots.lock_keys(registration.pci_address)
        return self._transactions.run(keys, clear)

    def _to_clear(self, snapshot: Snapshot) -> list[HostDeviceId]:
        return [
            snapshot.address,
            *(
                member.device
                for member in snapshot.group
                if member.device != snapshot.address and self._is_unregistered(member)
            ),
        ]

    def _is_unregistered(self, node: NodeDevice) -> bool:
        key = self._references.key()
        return self._registry.find_by_device(key, node.device) is None
