"""Register and unregister: the names that devices have on this host."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from hypeman_libvirt.devices import checks, rules
from hypeman_libvirt.devices.address import MdevUuid, PciAddress
from hypeman_libvirt.devices.binding import Binding
from hypeman_libvirt.devices.context import ChangeContext
from hypeman_libvirt.devices.errors import (
    BadRequestError,
    DeviceError,
    DeviceNotFoundError,
    NotFoundError,
)
from hypeman_libvirt.devices.model import Caller, Change, Device, Registration, Scope
from hypeman_libvirt.devices.new_registration import RegistrationFactory
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.devices.persistence import ending_with
from hypeman_libvirt.devices.slices import Slices
from hypeman_libvirt.devices.snapshot import Snapshot
from hypeman_libvirt.devices.transaction import Transaction

_log: Final = logging.getLogger(__name__)


class Registrations:
    """Registers devices of the host under an id and a name, and unregisters them."""

    def __init__(
        self,
        context: ChangeContext,
        binding: Binding,
        factory: RegistrationFactory,
        slices: Slices,
    ) -> None:
        """Register in this context.

        Args:
            context: The host, and what is stored about its devices.
            binding: Binds and unbinds in the same step.
            factory: Describes new registrations.
            slices: Takes away vGPUs that the service has made.
        """
        self._host = context.host
        self._registry = context.registry
        self._references = context.references
        self._snapshots = context.snapshots
        self._transactions = context.transactions
        self._on_change = context.on_change
        self._quarantiner = context.quarantiner
        self._persistence = context.persistence
        self._binding = binding
        self._factory = factory
        self._slices = slices

    def register(
        self,
        pci_address: str,
        name: str | None,
        tags: Mapping[str, str],
        caller: Caller,
        bind: Scope | None = None,
        *,
        require_clean: bool = False,
        persist: bool = False,
    ) -> Device:
        """Register a PCI device of the host; with ``bind``, bind it to vfio-pci as well.

        The checks come in hypeman's order, so that the same bad request gets the same code.

        Args:
            pci_address: Any accepted form; see PciAddress.parse.
            name: None for the default name.
            tags: Free words.
            caller: On whose behalf.
            bind: Bind it in the same step, or do neither.
            require_clean: Quarantine it after each use.
            persist: Bind it at each boot as well.

        Raises:
            BadRequestError: It is to be bound at boot and not now.
            InvalidNameError: The name breaks the rules.
            InvalidTagsError: A tag breaks the rules.
            InvalidPciAddressError: It is no PCI address.
            DeviceNotFoundError: The host has nothing there.
            NotAssignableError: It is a bridge.
            IommuUnavailableError: It is in no IOMMU group.
            ConflictError: Name or address is taken.
        """
        if persist and bind is None:
            raise BadRequestError("persist binds at boot", hint='say bind="device" as well')
        if name is not None:
            rules.check_name(name)
        rules.check_tags(tags)
        address = PciAddress.parse(pci_address)
        new = self._factory.make(self._assignable(address), name, tags, caller)
        new = replace(new, require_clean=require_clean)
        earlier = self._answered_before(new, caller) if caller.is_retry else None
        if earlier is None:
            return self._add(new, caller, bind, persist=persist)
        if bind is None:
            return self._answer(earlier)
        return self._binding.bind(earlier.id, bind, caller, persist=persist)

    def register_mdev(
        self, mdev_uuid: str, name: str | None, tags: Mapping[str, str], caller: Caller
    ) -> Device:
        """Register a mediated device as it is; unregistering it leaves it there.

        Raises:
            InvalidNameError: The name breaks the rules.
            InvalidTagsError: A tag breaks the rules.
            BadRequestError: It is no UUID.
            DeviceNotFoundError: The host has no such mediated device, or it is not active.
            ConflictError: Name or device is registered already.
        """
        if name is not None:
            rules.check_name(name)
        rules.check_tags(tags)
        mdev = _parse_mdev(mdev_uuid)
        node = self._host.node_device(mdev)
        if node is None:
            raise DeviceNotFoundError(
                f"no mediated device {mdev} is active on this host",
                hint="GET /devices/available lists those that are",
            )
        rules.check_assignable(node)
        new = self._factory.make(node, name, tags, caller)
        earlier = self._answered_before(new, caller) if caller.is_retry else None
        return self._answer(earlier) if earlier else self._add(new, caller, None)

    def unregister(self, reference: str, caller: Caller, unbind: Scope | None = None) -> None:
        """Unregister a device; with ``unbind``, give it back to its host driver as well.

        A vGPU that the service has made is taken away too.

        Everything is checked before anything moves.

        Raises:
            NotFoundError: No registration is known by the reference.
            InUseError: A domain has it or lives on it; with ``unbind``, any of its group.
        """
        registration = self._references.find(reference)
        if registration.vgpu is not None and registration.vgpu.made:
            self._slices.take_away(registration, caller)
            return
        keys = self._snapshots.lock_keys(registration.device)
        if unbind is None:
            with self._transactions.hold(keys):
                self._remove(registration, self._checked(registration, None), caller)
            return

        def give_back_and_remove(transaction: Transaction) -> None:
            snapshot = self._checked(registration, unbind)
            self._binding.unbind_within(transaction, registration, snapshot, caller)
            self._remove(registration, snapshot, caller)

        self._transactions.run(keys, give_back_and_remove)

    def _checked(self, registration: Registration, unbind: Scope | None) -> Snapshot:
        snapshot = self._snapshots.read("unregister", registration, unbind)
        checks.guard(snapshot)
        return snapshot

    def _remove(self, registration: Registration, snapshot: Snapshot, caller: Caller) -> None:
        with ExitStack() as undo:
            self._persistence.end(ending_with(snapshot, self._is_registered), undo)
            if not self._registry.remove(registration.host, registration.id):
                raise NotFoundError(f"device {registration.id} was unregistered meanwhile")
            undo.pop_all()
        self._on_change(Change("unregister", caller, snapshot.device, None))

    def _add(
        self, new: Registration, caller: Caller, bind: Scope | None, *, persist: bool = False
    ) -> Device:
        if bind is not None:
            device = self._add_and_bind(new, caller, bind, persist=persist)
        else:
            device = self._answer(new)
            self._registry.add(new)
        self._on_change(Change("register", caller, None, device))
        return device

    def _is_registered(self, address: PciAddress) -> bool:
        return self._registry.find_by_device(self._host.key(), address) is not None

    def _answer(self, registration: Registration) -> Device:
        """Read the answer before the registration is stored: a failed read must store nothing."""
        device = registration.device
        assignments = self._host.read_assignments([device])
        assignment = rules.first_assignment(assignments, device)
        node = self._host.node_device(device)
        verdict = self._snapshots.verdict(registration, node)
        quarantine = rules.in_effect(self._quarantiner.find(device), assignment)
        return Device(registration, node, assignment, verdict, quarantine)

    def _add_and_bind(
        self, new: Registration, caller: Caller, scope: Scope, *, persist: bool
    ) -> Device:
        def add_and_bind(transaction: Transaction) -> Device:
            snapshot = self._snapshots.read("bind", new, scope, is_new=True)
            transaction.undo.callback(self._remove_again, new)
            self._registry.add(new)
            return self._binding.bind_within(transaction, new, snapshot, caller, persist=persist)

        return self._transactions.run(self._snapshots.lock_keys(new.pci_address), add_and_bind)

    def _remove_again(self, new: Registration) -> None:
        """Undo a registration, if the registry has it: its reply may be what was lost."""
        try:
            self._registry.remove(new.host, new.id)
        except DeviceError:
            _log.exception(
                "could not remove the registration of %s again",
                new.pci_address,
                extra={"device_id": new.id, "pci_address": str(new.pci_address)},
            )

    def _assignable(self, address: PciAddress) -> NodeDevice:
        node = self._host.node_device(address)
        if node is None:
            raise DeviceNotFoundError(
                f"no PCI device {address} on this host", hint="GET /devices/available lists them"
            )
        rules.check_assignable(node)
        return node

    def _answered_before(self, new: Registration, caller: Caller) -> Registration | None:
        """Return the registration that an earlier try of the same request has made."""
        earlier = self._registry.find_by_device(new.host, new.device)
        if earlier is None or earlier.name != new.name:
            return None
        return earlier if self._factory.is_recent(earlier, caller) else None


def _parse_mdev(text: str) -> MdevUuid:
    try:
        return MdevUuid.parse(text)
    except ValueError:
        raise BadRequestError(
            f"mdev_uuid {text[: rules.MAX_NAME]!r} is no UUID",
            hint="write it as GET /devices/available does",
        ) from None
