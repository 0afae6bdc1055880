"""Move: the operator says where a card is, and domains that have it are rewritten."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from hypeman_libvirt.devices import checks, rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.card import Verdict
from hypeman_libvirt.devices.context import ChangeContext
from hypeman_libvirt.devices.definitions import Definitions, log_rewritten
from hypeman_libvirt.devices.errors import BusyError, DeviceError, NotSupportedError
from hypeman_libvirt.devices.fingerprint import confirm
from hypeman_libvirt.devices.model import Caller, Change, Device, Registration
from hypeman_libvirt.devices.snapshot import Snapshot
from hypeman_libvirt.devices.transaction import Transaction
from hypeman_libvirt.devices.whereabouts import known_of

_log: Final = logging.getLogger(__name__)


class Moving:
    """Writes down where the operator says that a card is; the card itself is left alone."""

    def __init__(self, context: ChangeContext, definitions: Definitions) -> None:
        """Move in this context, with what rewrites definitions of domains."""
        self._host = context.host
        self._registry = context.registry
        self._references = context.references
        self._snapshots = context.snapshots
        self._transactions = context.transactions
        self._quarantiner = context.quarantiner
        self._on_change = context.on_change
        self._definitions = definitions

    def move(self, reference: str, pci_address: str, caller: Caller) -> Device:
        """Take the card at an address for the registered one.

        Domains that have it in their definition have the new address from their next start on.

        Raises:
            InvalidPciAddressError: It is no PCI address.
            NotFoundError: No registration is known by the reference.
            DeviceNotFoundError: Nothing is at the address.
            IdentityChangedError: The card there cannot be the registered one.
            ConflictError: It is certainly another registration's.
            InUseError: A domain that would be rewritten has the new address already.
        """
        address = PciAddress.parse(pci_address)
        registration = self._references.find(reference)
        if registration.mdev is not None:
            raise NotSupportedError(
                f"{registration.name} is a mediated device, which cannot move",
                hint="delete it, and make another one on that GPU",
            )
        keys = {
            *self._snapshots.lock_keys(registration.pci_address),
            *self._snapshots.lock_keys(address),
        }

        def move(transaction: Transaction) -> Device:
            old = self._references.find(registration.id)  # again, now that it is locked
            if old.pci_address != registration.pci_address:
                raise BusyError(f"the card of {old.name} was followed meanwhile", hint="try again")
            self._lock_domains(transaction, old, address)
            snapshot = self._snapshots.read_move(old, address)
            checks.guard(snapshot)
            self._demand_locks(transaction, snapshot)
            return self._move(transaction, old, address, snapshot, caller)

        return self._transactions.run(keys, move)

    def _lock_domains(
        self, transaction: Transaction, old: Registration, address: PciAddress
    ) -> None:
        plan = self._snapshots.read_move(old, address).destination.plan
        transaction.lock([f"domain {each.domain.uuid}" for each in plan.rewrites])

    def _demand_locks(self, transaction: Transaction, snapshot: Snapshot) -> None:
        rewrites = snapshot.destination.plan.rewrites
        if not transaction.lock_keys.issuperset(f"domain {each.domain.uuid}" for each in rewrites):
            raise BusyError("another domain was given the device meanwhile", hint="try again")

    def _move(
        self,
        transaction: Transaction,
        old: Registration,
        address: PciAddress,
        snapshot: Snapshot,
        caller: Caller,
    ) -> Device:
        destination = snapshot.destination
        before = self._snapshots.read("detach", old, scope=None).device
        moved = address != old.pci_address
        new = replace(
            old,
            pci_address=address,
            moved_from=old.pci_address if moved else old.moved_from,
            fingerprint=confirm(known_of(old).fingerprint, destination.seen[address]),
            displaced=False,
        )
        for rewrite in destination.plan.rewrites:
            self._definitions.apply(transaction, rewrite)
        after = self._read(old, new, snapshot)
        if new != old:
            self._place(transaction, old, new)
        for rewrite in destination.plan.rewrites:
            log_rewritten(rewrite)
        self._on_change(Change("move", caller, before, after))
        return after

    def _place(self, transaction: Transaction, old: Registration, new: Registration) -> None:
        """Write down where the card is; who had the address without being there loses it."""
        addresses = {old.pci_address, new.pci_address}
        holders = [self._registry.find_by_device(old.host, each) for each in addresses]
        others = [each for each in holders if each is not None and each.id != old.id]
        transaction.undo.callback(self._take_back, old, new, others)
        if not self._registry.place([(old, new)]):
            raise BusyError(f"{old.name} was changed meanwhile", hint="try again")

    def _take_back(self, old: Registration, new: Registration, others: list[Registration]) -> None:
        try:
            self._registry.place([(new, old)])
            for each in others:
                self._registry.place([(each, each)])
        except DeviceError:
            _log.exception("could not write down again that %s is at %s", old.name, old.pci_address)

    def _read(self, old: Registration, new: Registration, snapshot: Snapshot) -> Device:
        address = new.pci_address
        assignments = self._host.read_assignments([address])
        assignment = rules.first_assignment(assignments, address)
        quarantine = rules.in_effect(self._quarantiner.find(old.pci_address), assignment)
        verdict = Verdict("present", address, "slot")
        return Device(new, snapshot.node, assignment, verdict, quarantine)
