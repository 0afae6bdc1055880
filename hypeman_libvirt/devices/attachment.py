"""Attach and detach: devices into domains and out of them, and the note in their metadata."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from hypeman_libvirt.devices import checks, rules
from hypeman_libvirt.devices.address import HostDeviceId, PciAddress
from hypeman_libvirt.devices.binding import Drivers, demand_locks, device_of
from hypeman_libvirt.devices.context import ChangeContext
from hypeman_libvirt.devices.domain import Assignment, Domain, GuestInterface
from hypeman_libvirt.devices.errors import (
    DeviceError,
    GuestDidNotReleaseError,
    LibvirtFailedError,
)
from hypeman_libvirt.devices.model import Caller, Change, Device, Registration, Scope
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.devices.notes import Notes
from hypeman_libvirt.devices.ports import RemovalWatch
from hypeman_libvirt.devices.snapshot import Snapshot
from hypeman_libvirt.devices.transaction import Transaction

_log: Final = logging.getLogger(__name__)
_POLL: Final = 0.5
"""Seconds after which the domain is read although libvirt has announced nothing."""


class Attachment:
    """Attaches registered devices to domains, and detaches them."""

    def __init__(
        self,
        context: ChangeContext,
        drivers: Drivers,
        *,
        release_timeout: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Attach in this context.

        Args:
            context: The host, and what is stored about its devices.
            drivers: Moves devices between drivers.
            release_timeout: Seconds that a guest has to let go of a device.
            monotonic: Seconds on a clock that is never set.
        """
        self._host = context.host
        self._notes = Notes(context.host, context.registry)
        self._references = context.references
        self._snapshots = context.snapshots
        self._transactions = context.transactions
        self._on_change = context.on_change
        self._quarantiner = context.quarantiner
        self._drivers = drivers
        self._release_timeout = release_timeout
        self._monotonic = monotonic

    def attach(
        self,
        reference: str,
        instance: str,
        scope: Scope,
        caller: Caller,
        *,
        force: bool = False,
        interface: GuestInterface | None = None,
    ) -> Device:
        """Attach the device to a domain: live and persistent if it runs, else persistent.

        A domain that has a part of it already gets the rest.

        Args:
            reference: The device.
            instance: The domain.
            scope: The device alone, or its IOMMU group.
            caller: On whose behalf.
            force: Even if the host lives on it.
            interface: MAC and VLAN of a network card's virtual function; None for neither.

        Raises:
            InstanceNotFoundError: No such domain.
            DeviceError: A check refuses, or libvirt does; nothing has changed then.
        """
        if interface is not None:
            rules.check_interface(interface)
        registration = self._references.find(reference)
        uuid = self._snapshots.domain(instance).uuid

        def attach(transaction: Transaction) -> Device:
            domain = self._snapshots.domain(uuid)
            snapshot = self._snapshots.read(
                "attach", registration, scope, domain, interface=interface
            )
            self._quarantiner.quarantine_silent(snapshot.silent)
            checks.guard(snapshot, force=force)
            demand_locks(snapshot, transaction)
            return self._attach(transaction, registration, snapshot, caller, force=force)

        keys = self._snapshots.lock_keys(registration.device)
        return self._transactions.run({*keys, f"domain {uuid}"}, attach)

    def detach(self, reference: str, caller: Caller) -> Device:
        """Detach the device, and its group with it, from the domain that holds it.

        Raises:
            NotAttachedError: No domain holds it.
            GuestDidNotReleaseError: The guest did not answer; the device is still in it.
        """
        registration = self._references.find(reference)

        def detach(transaction: Transaction) -> Device:
            snapshot = self._snapshots.read("detach", registration, scope=None)
            checks.guard(snapshot)
            demand_locks(snapshot, transaction)
            return self._detach(transaction, registration, snapshot, caller)

        keys = self._snapshots.lock_keys(registration.device)
        return self._transactions.run(keys, detach)

    def _attach(
        self,
        transaction: Transaction,
        registration: Registration,
        snapshot: Snapshot,
        caller: Caller,
        *,
        force: bool,
    ) -> Device:
        before = device_of(registration, snapshot)
        domain = snapshot.domain
        if domain is None:
            return before
        devices = [node.device for node in snapshot.taking]
        if snapshot.is_done:
            self._notes.complete(transaction, registration, domain, devices)
            return before
        siblings = [
            node for node in snapshot.taking[1:] if domain.active and rules.on_host_driver(node)
        ]  # the kernel gives a group to a guest only when all of it is free
        bound = [node.address for node in siblings]
        self._notes.add(transaction, registration, domain, devices, bound)
        self._drivers.bind(siblings, transaction)
        with ExitStack() as unused:
            used = self._quarantiner.quarantine_after_use(devices, domain)
            unused.callback(self._quarantiner.forget_use, used)
            held = self._give(transaction, snapshot, domain, devices)
            unused.pop_all()
        node = self._host.node_device(registration.device)
        after = self._read_back(registration, snapshot, domain, held, node)
        self._on_change(Change("attach", caller, before, after, force and bool(snapshot.uses)))
        return after

    def _give(
        self,
        transaction: Transaction,
        snapshot: Snapshot,
        domain: Domain,
        devices: Sequence[HostDeviceId],
    ) -> Sequence[Assignment]:
        """Attach, and once more to a domain that was started or stopped meanwhile."""
        transaction.undo.callback(self._take_out, transaction, snapshot, domain)
        unmanaged = [node.address for node in snapshot.providers]
        transaction.changes.attach(domain, devices, unmanaged, snapshot.interface)
        held = self._host.read_domain_assignments(domain)
        changed = next((each.domain for each in held if each.domain.active != domain.active), None)
        if changed is not None:
            transaction.changes.attach(changed, devices, unmanaged, snapshot.interface)
            held = self._host.read_domain_assignments(domain)
        for device in devices:
            if device not in {each.device for each in held}:
                raise LibvirtFailedError(
                    f"libvirt reported success, but {domain.name} does not hold {device}",
                    hint="the change was undone; libvirt's log on the host says why",
                )
        return held

    def _take_out(self, transaction: Transaction, snapshot: Snapshot, domain: Domain) -> None:
        """Undo an attach: detach what the domain has now and did not have before."""
        taking = {node.device for node in snapshot.taking}
        had = {each.device: each for each in snapshot.all_assignments() if _is_in(each, domain)}
        try:
            held = [
                each
                for each in self._host.read_domain_assignments(domain)
                if each.direct and each.device in taking
            ]
            came_in = [each for each in held if each.device not in had]
            if came_in:
                self._unplug(transaction, came_in)
            self._take_out_rest(transaction, [(had.get(each.device, each), each) for each in held])
        except DeviceError:
            _log.exception(
                "could not take %s out of %s again",
                snapshot.address,
                domain.name,
                extra={"pci_address": str(snapshot.address), "domain": domain.name},
            )

    def _take_out_rest(
        self, transaction: Transaction, changed: Sequence[tuple[Assignment, Assignment]]
    ) -> None:
        """Take out of a definition or a running domain what was in the other one before."""
        defined = [now for then, now in changed if now.persistent and not then.persistent]
        plugged = [now for then, now in changed if now.live and not then.live]
        if defined:
            only = replace(defined[0].domain, active=False)
            transaction.changes.detach(only, [each.device for each in defined])
        if plugged:
            only = replace(plugged[0].domain, persistent=False)
            transaction.changes.detach(only, [each.device for each in plugged])

    def _detach(
        self,
        transaction: Transaction,
        registration: Registration,
        snapshot: Snapshot,
        caller: Caller,
    ) -> Device:
        domain = snapshot.leaving[0].domain
        devices = [each.device for each in snapshot.leaving]
        transaction.lock([f"domain {domain.uuid}"])
        entries = self._host.read_metadata(domain)
        held = self._unplug(transaction, snapshot.leaving)
        leaving = [entry for entry in entries if entry.device in devices]
        self._give_back(transaction, devices, {each for entry in leaving for each in entry.bound})
        self._notes.remove(transaction, domain, [each for each in entries if each not in leaving])
        before = device_of(registration, snapshot)
        node = self._node_after_detach(registration.device) or snapshot.node
        after = self._read_back(registration, snapshot, domain, held, node)
        self._on_change(Change("detach", caller, before, after))
        return after

    def _unplug(
        self, transaction: Transaction, leaving: Sequence[Assignment]
    ) -> Sequence[Assignment]:
        """Take devices out of the one domain that has them; return what it has then."""
        domain, devices = leaving[0].domain, [each.device for each in leaving]
        with self._host.watch_removal(domain) as watch:
            transaction.changes.detach(domain, devices[::-1])
            return self._await_release(watch, domain, devices)

    def _await_release(
        self, watch: RemovalWatch, domain: Domain, devices: Sequence[HostDeviceId]
    ) -> Sequence[Assignment]:
        """Wait until the domain has none of the devices: libvirt's return does not say so.

        Returns:
            What the domain has then.
        """
        give_up = self._monotonic() + self._release_timeout
        while True:
            left = give_up - self._monotonic()
            try:
                assignments = self._host.read_domain_assignments(domain)
            except DeviceError:
                if left <= 0:
                    _log.exception(
                        "nobody knows whether %s has let go",
                        domain.name,
                        extra={"domain": domain.name},
                    )
                    raise
                watch.wait(min(left, _POLL))
                continue
            held = [each.device for each in assignments if each.device in devices]
            if not held:
                return assignments
            if left <= 0:
                raise self._not_released(domain, held, f"within {self._release_timeout:g} s")
            if watch.wait(min(left, _POLL)) == "failed":
                raise self._not_released(domain, held, "and answered the request with a no")

    def _not_released(
        self, domain: Domain, held: Sequence[HostDeviceId], how: str
    ) -> GuestDidNotReleaseError:
        """Put what the guest has kept under quarantine: nobody knows how it will come back."""
        for device in held:
            self._quarantiner.quarantine(device, f"the guest of {domain.name} did not let it go")
        return GuestDidNotReleaseError(
            f"the guest of {domain.name} did not let go of {', '.join(map(str, held))} {how}; "
            "it is out of the definition and still in the running domain",
            hint="let the guest handle PCI hot-unplug and detach again, or shut the domain down",
        )

    def _give_back(
        self,
        transaction: Transaction,
        devices: Collection[HostDeviceId],
        bound: Collection[PciAddress],
    ) -> None:
        """Give back what attach bound, and what was left without a driver.

        libvirt gives a device back while its siblings are still in the guest, and then the host
        driver cannot take it. The detach itself has succeeded, so a failure here is logged.
        """
        for address in (each for each in devices if isinstance(each, PciAddress)):
            node = self._node_after_detach(address)
            if node and (node.driver is None or (address in bound and rules.on_vfio(node.driver))):
                self._drivers.give_back(address, transaction)
                self._log_lost_driver(address)

    def _log_lost_driver(self, address: PciAddress) -> None:
        node = self._node_after_detach(address)
        if node is not None and node.driver is None:
            self._quarantiner.quarantine(address, "no host driver took it after it was detached")
            _log.error(
                "%s has no driver after it was detached: no host driver took it",
                address,
                extra={"pci_address": str(address)},
            )

    def _node_after_detach(self, address: HostDeviceId) -> NodeDevice | None:
        """Read a device; a detach that has succeeded does not fail for that it cannot be read."""
        try:
            node = self._host.node_device(address)
        except DeviceError:
            _log.exception(
                "%s cannot be read after it was detached",
                address,
                extra={"pci_address": str(address)},
            )
            return None
        if node is None:
            _log.error(
                "libvirt has no %s after it was detached, so it is not given back",
                address,
                extra={"pci_address": str(address)},
            )
        return node

    def _read_back(
        self,
        registration: Registration,
        snapshot: Snapshot,
        domain: Domain,
        held: Sequence[Assignment],
        node: NodeDevice | None,
    ) -> Device:
        """Return the device as it is after the change: only the one domain can have changed."""
        address = registration.device
        others = [
            each
            for each in snapshot.assignments.get(address, ())
            if each.domain.uuid != domain.uuid
        ]
        own = [each for each in held if each.device == address]
        first = sorted([*own, *others], key=lambda each: (not each.live, not each.domain.active))
        assignment = rules.first_assignment({address: first}, address)
        quarantine = rules.in_effect(self._quarantiner.find(address), assignment)
        return Device(registration, node, assignment, snapshot.verdict, quarantine)


def _is_in(assignment: Assignment, domain: Domain) -> bool:
    return assignment.domain.uuid == domain.uuid
