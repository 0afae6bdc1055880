"""Bind, unbind, attach, detach: what moves a device, after every check and with an undo."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Final

from hypeman_libvirt.devices import checks, rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.checks import Snapshot
from hypeman_libvirt.devices.drivers import DriverChanges
from hypeman_libvirt.devices.errors import (
    DeviceError,
    GuestDidNotReleaseError,
    InUseError,
    LibvirtFailedError,
    NotAttachedError,
)
from hypeman_libvirt.devices.inventory import Inventory
from hypeman_libvirt.devices.model import (
    Assignment,
    Caller,
    Change,
    Device,
    Domain,
    MetadataEntry,
    NodeDevice,
    Registration,
    Scope,
)
from hypeman_libvirt.devices.ports import Host, HostChanges, OnChange, Registry
from hypeman_libvirt.devices.snapshot import SnapshotReader
from hypeman_libvirt.devices.transaction import Transactions

_log: Final = logging.getLogger(__name__)
_POLL: Final = 0.2
"""Seconds between two looks at whether a guest has let go; libvirt itself waits 5 s before."""


@dataclass(frozen=True, slots=True)
class Work:
    """One operation under way.

    Attributes:
        changes: The connection that it runs on.
        undo: The way back, taken when the operation fails.
    """

    changes: HostChanges
    undo: ExitStack


class Passthrough:
    """Moves registered devices between host drivers, vfio-pci and domains."""

    def __init__(
        self,
        host: Host,
        registry: Registry,
        inventory: Inventory,
        survey: SnapshotReader,
        operations: Transactions,
        *,
        release_timeout: float,
        on_change: OnChange,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Build it on its world.

        Args:
            host: Where the devices are.
            registry: Which of them are registered.
            inventory: Reads of both.
            survey: Reads what the checks look at.
            operations: Who runs the changes.
            release_timeout: Seconds that a guest has to let go of a device.
            on_change: Is told of each change that was made.
            sleep: Waits for some seconds.
            monotonic: Seconds on a clock that is never set.
        """
        self._host = host
        self._registry = registry
        self._inventory = inventory
        self._survey = survey
        self._operations = operations
        self._release_timeout = release_timeout
        self._on_change = on_change
        self._sleep = sleep
        self._monotonic = monotonic
        self._taken_from: dict[PciAddress, str | None] = {}

    def bind(self, reference: str, scope: Scope, caller: Caller, *, force: bool = False) -> Device:
        """Take the device from its host driver and give it to vfio-pci.

        Raises:
            DeviceError: A check refuses, or vfio-pci did not take it; nothing has changed then.
        """
        found = self._inventory.find_registration(reference)

        def bind(work: Work) -> Device:
            self._demand_registered(found)
            return self.bind_now(found, scope, caller, work, force=force)

        return self.run(found, bind)

    def unbind(self, reference: str, scope: Scope, caller: Caller) -> Device:
        """Take the device from vfio-pci and give it back to its host driver.

        Raises:
            InUseError: A domain holds it, or a member of its IOMMU group.
            DriverNotBoundError: The host driver did not take it; it is on vfio-pci as before.
        """
        found = self._inventory.find_registration(reference)

        def unbind(work: Work) -> Device:
            self._demand_registered(found)
            return self.unbind_now(found, scope, caller, work)

        return self.run(found, unbind)

    def attach(
        self, reference: str, instance: str, scope: Scope, caller: Caller, *, force: bool = False
    ) -> Device:
        """Give the device to a domain: live and persistent if it runs, else persistent.

        Raises:
            InstanceNotFoundError: No such domain.
            DeviceError: A check refuses, or libvirt does; nothing has changed then.
        """
        found = self._inventory.find_registration(reference)
        uuid = self._survey.domain(instance).uuid

        def attach(work: Work) -> Device:
            self._demand_registered(found)
            domain = self._survey.domain(uuid)
            now = self._survey.snapshot(found.pci_address, found, scope, "attach", domain)
            return self._attach(found, domain, now, caller, work, force=force)

        return self.run(found, attach, claims=[f"domain {uuid}"])

    def detach(self, reference: str, caller: Caller) -> Device:
        """Take the device out of the domain that holds it, and its group with it.

        Raises:
            NotAttachedError: No domain holds it.
            GuestDidNotReleaseError: The guest did not answer; the device is still in it.
        """
        found = self._inventory.find_registration(reference)
        claim = f"domain {self._assignment(found).domain.uuid}"

        def detach(work: Work) -> Device:
            self._demand_registered(found)
            return self._detach(found, caller, work)

        return self.run(found, detach, claims=[claim])

    def run(
        self,
        registration: Registration,
        step: Callable[[Work], Device],
        claims: Collection[Hashable] = (),
    ) -> Device:
        """Run a change as the one operation on the IOMMU group: all of it, or none.

        Raises:
            BusyError: Another operation on the group runs.
            OperationTimeoutError: libvirt did not come back in time.
        """
        node = self._host.node_device(registration.pci_address)
        group = node.group_addresses if node else ()

        def all_or_nothing() -> Device:
            with self._host.changes() as changes, ExitStack() as undo:
                device = step(Work(changes, undo))
                undo.pop_all()
                return device

        return self._operations.run({registration.pci_address, *group, *claims}, all_or_nothing)

    def alone(self, registration: Registration) -> AbstractContextManager[None]:
        """Keep operations off the device for a moment.

        Raises:
            BusyError: One runs.
        """
        return self._operations.alone({registration.pci_address})

    def _demand_registered(self, found: Registration) -> None:
        """Refuse what was unregistered between the look-up and the claim."""
        self._inventory.find_registration(found.id)

    def bind_now(
        self, found: Registration, scope: Scope, caller: Caller, work: Work, *, force: bool = False
    ) -> Device:
        """Bind as a step of an operation that runs already."""
        now = self._survey.snapshot(found.pci_address, found, scope, "bind")
        todo = [node for node in now.taking if not rules.on_vfio(node.driver)]
        if todo or now.node is None:
            checks.guard(replace(now, taking=todo), force=force)
            DriverChanges(self._host, work.changes, work.undo).bind(todo)
            self._taken_from.update({node.address: node.driver for node in todo})
            self._tell("bind", caller, found, now, forced=force and bool(now.uses))
        return self._inventory.of(found)

    def unbind_now(self, found: Registration, scope: Scope, caller: Caller, work: Work) -> Device:
        """Unbind as a step of an operation that runs already."""
        now = self._survey.snapshot(found.pci_address, found, scope, "bind")
        todo = [node for node in now.taking if rules.on_vfio(node.driver)]
        if todo:
            _refuse_while_held(now)
            drivers = DriverChanges(self._host, work.changes, work.undo)
            drivers.unbind(todo, self._host_drivers(todo))
            self._tell("unbind", caller, found, now)
        return self._inventory.of(found)

    def _attach(
        self,
        found: Registration,
        domain: Domain,
        now: Snapshot,
        caller: Caller,
        work: Work,
        *,
        force: bool,
    ) -> Device:
        if _has_all(domain, now):
            return self._inventory.of(found)
        checks.guard(now, force=force)
        bound = self._free_siblings(now, work) if domain.active else ()
        addresses = [node.address for node in now.taking]
        work.changes.attach(domain, addresses)
        work.undo.callback(work.changes.detach, domain, addresses)
        self._demand_held(domain, addresses)
        self._note(found, domain, addresses, bound, work)
        self._tell("attach", caller, found, now, forced=force and bool(now.uses))
        return self._inventory.of(found)

    def _free_siblings(self, now: Snapshot, work: Work) -> tuple[PciAddress, ...]:
        """Bind all but the first: the kernel gives a group to a guest only when all of it is free.

        libvirt binds and gives back the first by itself; detach gives back these.
        """
        siblings = [node for node in now.taking[1:] if rules.on_host_driver(node)]
        DriverChanges(self._host, work.changes, work.undo).bind(siblings)
        self._taken_from.update({node.address: node.driver for node in siblings})
        return tuple(node.address for node in siblings)

    def _demand_held(self, domain: Domain, addresses: Sequence[PciAddress]) -> None:
        assignments = self._host.read_assignments(addresses)
        for address in addresses:
            if domain.uuid not in {each.domain.uuid for each in assignments.get(address, ())}:
                raise LibvirtFailedError(
                    f"libvirt reported success, but {domain.name} does not hold {address}",
                    hint="the change was undone; libvirt's log on the host says why",
                )

    def _note(
        self,
        found: Registration,
        domain: Domain,
        addresses: Sequence[PciAddress],
        bound: tuple[PciAddress, ...],
        work: Work,
    ) -> None:
        """Write into the domain's metadata which registered devices it holds now."""
        before = self._host.read_metadata(domain)
        work.undo.callback(work.changes.write_metadata, domain, before)
        entries = [entry for entry in before if entry.device not in addresses]
        for address in addresses:
            device = self._registry.find_by_address(found.host, address)
            if device is not None:
                own = bound if address == found.pci_address else ()
                entries.append(MetadataEntry(device.id, device.name, address, own))
        work.changes.write_metadata(domain, entries)

    def _detach(self, found: Registration, caller: Caller, work: Work) -> Device:
        now = self._survey.snapshot(found.pci_address, found, "group", "attach")
        domain = self._assignment(found).domain
        addresses = _held_together(found.pci_address, domain, now)
        entries = self._host.read_metadata(domain)
        work.changes.detach(domain, addresses[::-1])
        self._await_release(domain, addresses)
        leaving = [entry for entry in entries if entry.device in addresses]
        self._give_back(addresses, [each for entry in leaving for each in entry.bound], work)
        self._forget(domain, [entry for entry in entries if entry not in leaving], work)
        self._tell("detach", caller, found, now)
        return self._inventory.of(found)

    def _await_release(self, domain: Domain, addresses: Sequence[PciAddress]) -> None:
        """Wait until the live domain has none of the devices: libvirt's return does not say so."""
        give_up = self._monotonic() + self._release_timeout
        while held := self._still_held(domain, addresses):
            if self._monotonic() > give_up:
                raise GuestDidNotReleaseError(
                    f"the guest of {domain.name} did not let go of {', '.join(map(str, held))} "
                    f"within {self._release_timeout:g} s; it is out of the definition and still "
                    "in the running domain",
                    hint="let the guest handle PCI hot-unplug and detach again, "
                    "or shut the domain down",
                )
            self._sleep(_POLL)

    def _still_held(self, domain: Domain, addresses: Sequence[PciAddress]) -> list[PciAddress]:
        assignments = self._host.read_assignments(addresses)
        return [
            address
            for address in addresses
            if any(each.domain.uuid == domain.uuid for each in assignments.get(address, ()))
        ]

    def _give_back(
        self, addresses: Sequence[PciAddress], bound: Sequence[PciAddress], work: Work
    ) -> None:
        """Give back what attach bound, and what was left without a driver.

        libvirt gives a device back while its siblings are still in the guest, and then the host
        driver cannot take it. The detach itself has succeeded, so a failure here is logged.
        """
        for address in addresses:
            node = self._host.node_device(address)
            if node and (node.driver is None or (address in bound and rules.on_vfio(node.driver))):
                try:
                    work.changes.unbind(address)
                except DeviceError:
                    _log.exception("%s left the domain, but could not be given back", address)

    def _forget(self, domain: Domain, entries: Sequence[MetadataEntry], work: Work) -> None:
        try:
            work.changes.write_metadata(domain, entries)
        except DeviceError:
            if self._host.find_domain(domain.uuid) is not None:
                _log.exception("metadata of domain %s still names a detached device", domain.name)

    def _assignment(self, found: Registration) -> Assignment:
        assignment = rules.first_assignment(
            self._host.read_assignments([found.pci_address]), found.pci_address
        )
        if assignment is None:
            raise NotAttachedError(f"no domain holds {found.name} ({found.pci_address})")
        return assignment

    def _host_drivers(self, nodes: Sequence[NodeDevice]) -> Mapping[PciAddress, str | None]:
        """Which driver each came from, as this process saw it or the registry remembers it."""
        known: dict[PciAddress, str | None] = {}
        for node in nodes:
            registered = self._registry.find_by_address(self._host.key(), node.address)
            remembered = registered.host_driver if registered else None
            known[node.address] = self._taken_from.get(node.address, remembered)
        return known

    def _tell(
        self,
        action: str,
        caller: Caller,
        found: Registration,
        now: Snapshot,
        *,
        forced: bool = False,
    ) -> None:
        before = Device(found, now.node, rules.first_assignment(now.assignments, found.pci_address))
        self._on_change(Change(action, caller, before, self._inventory.of(found), forced))


def _refuse_while_held(now: Snapshot) -> None:
    """Refuse to give a device back while a guest has any of its group: it would lose its driver."""
    for node in now.group:
        for assignment in now.assignments.get(node.address, ()):
            if assignment.live:
                raise checks.in_use(assignment)


def _has_all(domain: Domain, now: Snapshot) -> bool:
    """Whether the domain holds all of it already, for good; a part of it is refused.

    Raises:
        InUseError: The domain has some of the devices, or not both now and at its next start.
    """
    held = [
        assignment
        for node in now.taking
        for assignment in now.assignments.get(node.address, ())
        if assignment.domain.uuid == domain.uuid
    ]
    whole = [
        assignment
        for assignment in held
        if assignment.live == domain.active and assignment.persistent == domain.persistent
    ]
    if held and len(whole) < len(now.taking):
        raise InUseError(
            f"{held[0].device} is in a part of {rules.describe_assignment(held[0])} already",
            hint="detach it first, or restart the domain",
        )
    return bool(held)


def _held_together(address: PciAddress, domain: Domain, now: Snapshot) -> list[PciAddress]:
    """The device and what of its group the same domain holds: a group never stands split."""
    members = [node.address for node in now.group] or [address]
    return [
        each
        for each in members
        if any(
            assignment.domain.uuid == domain.uuid for assignment in now.assignments.get(each, ())
        )
    ]
