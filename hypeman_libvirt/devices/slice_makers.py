"""How vGPUs are made and taken away: as mediated devices by libvirt, else by their vendor's driver.

Both read back what they did, and register the undo of each step before it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from hypeman_libvirt.devices.address import MdevUuid, PciAddress
from hypeman_libvirt.devices.errors import DeviceError, LibvirtFailedError, NoCapacityError
from hypeman_libvirt.devices.model import Registration, Vgpu
from hypeman_libvirt.devices.node_device import MediatedDevice, NodeDevice
from hypeman_libvirt.devices.ports import Host, RootHelper
from hypeman_libvirt.devices.transaction import Transaction
from hypeman_libvirt.devices.vgpu import Offer

NewUuid: TypeAlias = Callable[[], MdevUuid]
"""A new UUID for a mediated device."""

_log: Final = logging.getLogger(__name__)
_POLL: Final = 0.05
"""Seconds between two reads of a vGPU that libvirt has started and not seen yet."""
NO_TYPE: Final = "0"
"""What a virtual function that is no vGPU has for a type."""


class SliceMaker(Protocol):
    """Makes vGPUs of one framework."""

    def plan(self, offer: Offer, *, persist: bool) -> Vgpu:
        """Say what the vGPU will be, before anything is done."""

    def make(
        self, transaction: Transaction, function: PciAddress, planned: Vgpu, *, persist: bool
    ) -> NodeDevice:
        """Make it on a PCI function, and return it as it was read back."""

    def take_away(self, transaction: Transaction, registration: Registration) -> None:
        """Take it away, as far as it is there, and read that it is gone."""

    def is_gone(self, registration: Registration) -> bool:
        """Whether nothing is left of it."""


class MdevMaker:
    """Makes mediated devices, with libvirt's own calls."""

    def __init__(
        self,
        host: Host,
        new_uuid: NewUuid,
        *,
        patience: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Make them on this host.

        Args:
            host: Reads them back.
            new_uuid: Makes a UUID.
            patience: Seconds until libvirt must have seen what it has started or ended: it hears
                of that from udev.
            monotonic: Seconds on a clock that is never set.
            sleep: Waits for so many seconds.
        """
        self._host = host
        self._new_uuid = new_uuid
        self._patience = patience
        self._monotonic = monotonic
        self._sleep = sleep

    def plan(self, offer: Offer, *, persist: bool) -> Vgpu:
        """Give it a UUID; whether it persists is libvirt's to know."""
        del persist
        return Vgpu(offer.type.type_id, offer.type.name, self._new_uuid(), made=True)

    def make(
        self, transaction: Transaction, function: PciAddress, planned: Vgpu, *, persist: bool
    ) -> NodeDevice:
        """Have libvirt define and start it.

        Raises:
            NoCapacityError: Another program has taken the room for it meanwhile.
        """
        mdev, parent, type_id = _mdev_of(planned), function, planned.type_id
        transaction.undo.callback(_attempt, lambda: transaction.changes.remove_mdev(mdev), parent)
        try:
            transaction.changes.make_mdev(mdev, parent, type_id, autostart=persist)
        except LibvirtFailedError as error:  # libvirt does not say that there is no room
            if self._is_full(parent, type_id):
                raise NoCapacityError(
                    f"no room for another {planned.profile} on {parent}"
                ) from error
            raise
        node = self._await(mdev)
        if node is None or node.mdev is None or node.mdev.type_id != type_id:
            raise LibvirtFailedError(
                f"libvirt reported success, but there is no {planned.profile} with UUID {mdev}",
                hint="the change was undone; the log of libvirt and the kernel's say why",
            )
        return node

    def take_away(self, transaction: Transaction, registration: Registration) -> None:
        """Have libvirt end and undefine it."""
        mdev, parent = _mdev_of(registration.vgpu), registration.pci_address
        before = self._read(mdev)
        if before is None:
            return
        again = self._make_again(transaction, before, parent)
        transaction.undo.callback(_attempt, again, parent)
        transaction.changes.remove_mdev(mdev)
        if not self.is_gone(registration):
            raise LibvirtFailedError(
                f"libvirt reported success, but the vGPU {mdev} is still there",
                hint="the log of libvirt and the kernel's say why",
            )

    def is_gone(self, registration: Registration) -> bool:
        """Whether libvirt knows nothing of it, soon."""
        give_up = self._monotonic() + self._patience
        while self._read(_mdev_of(registration.vgpu)) is not None:
            if self._monotonic() >= give_up:
                return False
            self._sleep(_POLL)
        return True

    def _is_full(self, parent: PciAddress, type_id: str) -> bool:
        node = self._host.node_device(parent)
        types = node.vgpu_profiles if node else ()
        return not any(each.type_id == type_id and each.available for each in types)

    def _await(self, mdev: MdevUuid) -> NodeDevice | None:
        give_up = self._monotonic() + self._patience
        while True:
            node = self._host.node_device(mdev)
            if node is not None or self._monotonic() >= give_up:
                return node
            self._sleep(_POLL)

    def _read(self, mdev: MdevUuid) -> MediatedDevice | None:
        return next((each for each in self._host.read_mdevs() if each.uuid == mdev), None)

    def _make_again(
        self, transaction: Transaction, before: MediatedDevice, parent: PciAddress
    ) -> Callable[[], None]:
        """Undo a removal: no guest had it, so that an equal one is the same."""

        def again() -> None:
            if before.active:
                transaction.changes.make_mdev(
                    before.uuid, parent, before.type_id, autostart=before.autostart
                )

        return again


class VendorMaker:
    """Gives virtual functions a type of vGPU, through their vendor's driver."""

    def __init__(self, host: Host, helper: RootHelper) -> None:
        """Have this helper write, and this host read back."""
        self._host = host
        self._helper = helper

    def plan(self, offer: Offer, *, persist: bool) -> Vgpu:
        """Take the virtual function."""
        return Vgpu(offer.type.type_id, offer.type.name, made=True, persist=persist)

    def make(
        self, transaction: Transaction, function: PciAddress, planned: Vgpu, *, persist: bool
    ) -> NodeDevice:
        """Give the virtual function its type, which the driver forgets when the host ends."""
        del persist
        address = function
        transaction.undo.callback(
            _attempt, lambda: self._helper.set_vgpu_type(address, int(NO_TYPE)), address
        )
        self._helper.set_vgpu_type(address, int(planned.type_id))
        return self._demand(address, planned.type_id)

    def take_away(self, transaction: Transaction, registration: Registration) -> None:
        """Take the type away again; where the function is gone or has none, nothing is to do."""
        address, before = registration.pci_address, self._type(registration.pci_address)
        if before in {None, NO_TYPE}:
            return
        transaction.undo.callback(
            _attempt, lambda: self._helper.set_vgpu_type(address, int(before or NO_TYPE)), address
        )
        self._helper.set_vgpu_type(address, int(NO_TYPE))
        self._demand(address, NO_TYPE)

    def is_gone(self, registration: Registration) -> bool:
        """Whether the virtual function has no type."""
        return self._type(registration.pci_address) in {None, NO_TYPE}

    def _demand(self, address: PciAddress, type_id: str) -> NodeDevice:
        node = self._host.node_device(address)
        if node is None or node.vgpu_type != type_id:
            raise LibvirtFailedError(
                f"the driver of {address} was asked for vGPU type {type_id}, and it has "
                f"{node.vgpu_type if node else 'none'}",
                hint="the change was undone; the kernel log of the host says why (dmesg)",
            )
        return node

    def _type(self, address: PciAddress) -> str | None:
        node = self._host.node_device(address)
        return node.vgpu_type if node else None


def _mdev_of(planned: Vgpu | None) -> MdevUuid:
    if planned is None or planned.mdev is None:
        raise AssertionError(planned)
    return planned.mdev


def _attempt(step: Callable[[], None], address: PciAddress) -> None:
    """Take a step of an undo; the error that made it necessary is the one to report."""
    try:
        step()
    except DeviceError:
        _log.exception(
            "a vGPU of %s is not as it was", address, extra={"pci_address": str(address)}
        )
