"""Moving devices between their host drivers and vfio-pci, all or nothing, each step read back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Final

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import DeviceError, DriverNotBoundError, VfioUnavailableError
from hypeman_libvirt.devices.model import NodeDevice
from hypeman_libvirt.devices.ports import Host, HostChanges

_log: Final = logging.getLogger(__name__)


class DriverChanges:
    """Binds and unbinds over one connection; what it did is undone unless it is kept.

    libvirt's success says nothing: the driver is read again after every step.
    """

    def __init__(self, host: Host, changes: HostChanges, undo: ExitStack) -> None:
        """Change drivers through ``changes``, leaving the way back on ``undo``."""
        self._host = host
        self._changes = changes
        self._undo = undo

    def bind(self, nodes: Iterable[NodeDevice]) -> None:
        """Give each device that is not on a vfio driver to vfio-pci, in order.

        Raises:
            VfioUnavailableError: vfio-pci did not take one.
        """
        for node in nodes:
            if not rules.on_vfio(node.driver):
                self._undo.callback(self._give_back, node)
                self._changes.bind(node.address)
                self._demand_vfio(node.address)

    def unbind(
        self, nodes: Iterable[NodeDevice], host_drivers: Mapping[PciAddress, str | None]
    ) -> None:
        """Give each device that is on a vfio driver back to the host, in order.

        Args:
            nodes: The devices.
            host_drivers: Which driver is known to take each; None where none is known, so that
                a device that stays without one is as it was.

        Raises:
            DriverNotBoundError: The host driver did not take one.
        """
        for node in nodes:
            if rules.on_vfio(node.driver):
                self._undo.callback(self._take_again, node.address)
                self._changes.unbind(node.address)
                self._demand_host_driver(node.address, host_drivers.get(node.address))

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
            raise DriverNotBoundError(
                f"libvirt reported success, but {address} is still on {driver}",
                hint="something on the host binds it to vfio: see driverctl and modprobe.d",
            )
        if driver is None and expected is not None:
            raise DriverNotBoundError(
                f"libvirt reported success, but {expected} did not take {address} back",
                hint="it was put on vfio-pci again; the kernel log of the host says why (dmesg)",
            )

    def _give_back(self, node: NodeDevice) -> None:
        """Undo a bind: only where the device is not on its host driver, which would bounce it."""
        if self._driver(node.address) == node.driver:
            return
        if self._is_group_held(node):
            _log.error("%s stays on vfio-pci: a guest holds its IOMMU group", node.address)
            return
        _attempt("give back", node.address, lambda: self._changes.unbind(node.address))
        after = self._driver(node.address)
        if after != node.driver:
            _log.error(
                "%s is on %s after a failed bind, it was on %s", node.address, after, node.driver
            )

    def _is_group_held(self, node: NodeDevice) -> bool:
        """Whether a guest runs with a member: then the host driver could not take the device."""
        members = {node.address, *node.group_addresses}
        assignments = self._host.read_assignments(members)
        return any(each.live for member in members for each in assignments.get(member, ()))

    def _take_again(self, address: PciAddress) -> None:
        """Undo an unbind."""
        if not rules.on_vfio(self._driver(address)):
            _attempt("bind again", address, lambda: self._changes.bind(address))


def _attempt(what: str, address: PciAddress, step: Callable[[], None]) -> None:
    """Take a step of an undo; the error that made it necessary is the one to report."""
    try:
        step()
    except DeviceError:
        _log.exception("could not %s %s", what, address)
