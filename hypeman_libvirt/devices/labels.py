"""Rename a registered device, and give it other tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.context import ChangeContext
from hypeman_libvirt.devices.domain import Domain
from hypeman_libvirt.devices.errors import NotFoundError
from hypeman_libvirt.devices.model import Caller, Change, Device, Registration
from hypeman_libvirt.devices.transaction import Transaction


class Labels:
    """Changes names and tags of registered devices."""

    def __init__(self, context: ChangeContext) -> None:
        """Change registrations in this context."""
        self._host = context.host
        self._registry = context.registry
        self._references = context.references
        self._snapshots = context.snapshots
        self._transactions = context.transactions
        self._quarantiner = context.quarantiner
        self._on_change = context.on_change

    def relabel(
        self, reference: str, name: str | None, tags: Mapping[str, str] | None, caller: Caller
    ) -> Device:
        """Give a device another name, or replace its tags, or both; None leaves either as it is.

        The domain that has the device notes the new name.

        Raises:
            InvalidNameError: The name breaks the rules.
            InvalidTagsError: A tag breaks the rules.
            NotFoundError: No registration is known by the reference.
            ConflictError: The name is taken.
        """
        if name is not None:
            rules.check_name(name)
        if tags is not None:
            rules.check_tags(tags)
        registration = self._references.find(reference)
        keys = self._snapshots.lock_keys(registration.device)

        def relabel(transaction: Transaction) -> Device:
            old = self._references.find(registration.id)  # again, now that it is locked
            new = replace(
                old,
                name=old.name if name is None else name,
                tags=old.tags if tags is None else dict(tags),
            )
            return self._relabel(transaction, old, new, caller)

        return self._transactions.run(keys, relabel)

    def _relabel(
        self, transaction: Transaction, old: Registration, new: Registration, caller: Caller
    ) -> Device:
        device = old.device
        assignments = self._host.read_assignments([device]).get(device, ())
        first = assignments[0] if assignments else None
        node = self._host.node_device(device)
        transaction.undo.callback(self._registry.relabel, old)
        if not self._registry.relabel(new):
            raise NotFoundError(f"device {old.id} was unregistered meanwhile")
        if new.name != old.name:
            for domain in {each.domain.uuid: each.domain for each in assignments}.values():
                self._note(transaction, domain, new)
        verdict = self._snapshots.verdict(old, node)
        quarantine = rules.in_effect(self._quarantiner.find(device), first)
        after = Device(new, node, first, verdict, quarantine)
        self._on_change(Change("relabel", caller, replace(after, registration=old), after))
        return after

    def _note(self, transaction: Transaction, domain: Domain, new: Registration) -> None:
        """Write the new name where the domain notes the device."""
        transaction.lock([f"domain {domain.uuid}"])
        before = self._host.read_metadata(domain)
        if all(entry.id != new.id for entry in before):
            return
        entries = [
            replace(entry, name=new.name) if entry.id == new.id else entry for entry in before
        ]
        transaction.undo.callback(transaction.changes.write_metadata, domain, before)
        transaction.changes.write_metadata(domain, entries)
