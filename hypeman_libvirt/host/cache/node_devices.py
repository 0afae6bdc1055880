"""A cache of the host's PCI functions, for reads that decide over no change."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final, Protocol

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import LibvirtDeniedError, LibvirtFailedError
from hypeman_libvirt.devices.node_device import NodeDevice, VgpuProfile
from hypeman_libvirt.host.cache.event_cache import EventCache
from hypeman_libvirt.host.connection import Announcement, Connection
from hypeman_libvirt.host.node_devices import NodeDevices
from hypeman_libvirt.host.usage.sysfs import provides_vfio
from hypeman_libvirt.host.vendor_vgpus import read_vgpu

_SYSFS: Final = Path("/sys/bus/pci/devices")


class DriverReader(Protocol):
    """Which driver has which PCI function, from where libvirt has it too.

    libvirt announces no change of a driver (measured on 9.0 and 11.3).
    """

    def driver(self, address: PciAddress) -> str | None:
        """Return the driver; None without one, and where there is no function."""

    def is_vfio_provider(self, address: PciAddress, driver: str | None) -> bool:
        """Whether the driver, other than vfio-pci, gives the function to guests itself."""

    def vgpu(self, address: PciAddress) -> tuple[str | None, tuple[VgpuProfile, ...]]:
        """Return the type of vGPU that a virtual function is, and those that it could be now."""

    def addresses(self) -> AbstractSet[str] | None:
        """Return every address that has a function; None if libvirt's announcements must do."""


class SysfsDrivers:
    """The drivers in sysfs, which libvirt itself reads.

    Source: the kernel's Documentation/ABI/testing/sysfs-bus-pci.
    """

    def __init__(self, directory: Path = _SYSFS) -> None:
        """Read below this directory."""
        self._directory = os.fspath(directory)

    def driver(self, address: PciAddress) -> str | None:
        """Follow the function's link to its driver."""
        try:
            return os.path.basename(os.readlink(f"{self._directory}/{address}/driver"))  # noqa: PTH115, PTH119 - a third of pathlib's time, and this is asked for each device
        except OSError:
            return None

    def is_vfio_provider(self, address: PciAddress, driver: str | None) -> bool:
        """Look into the function's directory."""
        return provides_vfio(f"{self._directory}/{address}", driver)

    def vgpu(self, address: PciAddress) -> tuple[str | None, tuple[VgpuProfile, ...]]:
        """Read the function's directory."""
        return read_vgpu(Path(self._directory, str(address)))

    def addresses(self) -> AbstractSet[str]:
        """List the directory."""
        try:
            return set(os.listdir(self._directory))  # noqa: PTH208 - names, not paths
        except OSError:
            return frozenset()


class NodeDeviceCache:
    """A cache of node devices, which libvirt's events invalidate.

    libvirt announces which come and go. The driver is compared with the kernel's in each answer,
    so a change of it is never older than the answer.
    """

    def __init__(
        self, connection: Connection, node_devices: NodeDevices, drivers: DriverReader
    ) -> None:
        """Listen on the connection, and read nothing yet."""
        self._connection = connection
        self._node_devices = node_devices
        self._drivers = drivers
        self._cache = EventCache(
            self._read_all, self._read_named, before_waiting=connection.before_waiting
        )
        self._answer: tuple[Mapping[str, NodeDevice], Mapping[PciAddress, NodeDevice]] = ({}, {})
        self._listed: tuple[
            Mapping[PciAddress, NodeDevice], AbstractSet[str], Sequence[NodeDevice]
        ] = ({}, frozenset(), ())
        connection.subscribe(self._hear)

    def find(self, address: PciAddress) -> NodeDevice | None:
        """Look up by address."""
        node = self._by_address().get(address)
        if not self._connection.announces("node device"):  # known once connected
            return self._node_devices.find(address)
        if node is None:
            return self._node_devices.find(address) if self._kernel_has(address) else None
        if not self._has_moved(node):
            return node
        self._cache.invalidate(node.node_name)
        return self._by_address().get(address)

    def list_devices(self) -> Sequence[NodeDevice]:
        """List all, by address."""
        known = self.list_hardware()
        if not self._connection.announces("node device"):
            return known
        for node in known:
            if self._is_driven_otherwise(node):
                self._cache.invalidate(node.node_name)
        return list(self._by_address().values())

    def list_hardware(self) -> Sequence[NodeDevice]:
        """List all, by address, with the drivers that they had when they were read.

        The very same object as before while nothing was read again.
        """
        known = self._by_address()
        if not self._connection.announces("node device"):  # known once connected
            return self._node_devices.list_devices()
        names, hardware = self._listing(known)
        listed = self._drivers.addresses()
        if listed is not None and listed != names:
            self._cache.invalidate()
            _, hardware = self._listing(self._by_address())
        return hardware

    def _listing(
        self, known: Mapping[PciAddress, NodeDevice]
    ) -> tuple[AbstractSet[str], Sequence[NodeDevice]]:
        """Return the names and the list of what is known, made once for as long as it is that."""
        of, names, hardware = self._listed
        if of is not known:
            names, hardware = {str(address) for address in known}, list(known.values())
            self._listed = known, names, hardware
        return names, hardware

    def invalidate(self) -> None:
        """Read all again, after a change that libvirt does not announce."""
        self._cache.invalidate()

    def _hear(self, announcement: Announcement) -> None:
        """Read all again when a PCI function comes or goes: others of its card name it.

        Likewise when a mediated device does: its parent says how many more fit.
        """
        name = announcement.name or ""
        of_pci = announcement.kind == "node device" and name.startswith(("pci_", "mdev_"))
        if of_pci or announcement.kind == "connection":
            self._cache.invalidate()

    def _has_moved(self, node: NodeDevice) -> bool:
        if self._is_driven_otherwise(node):
            return True
        listed = self._drivers.addresses() if node.driver is None else None
        return listed is not None and str(node.address) not in listed

    def _is_driven_otherwise(self, node: NodeDevice) -> bool:
        driver = self._drivers.driver(node.address)
        provider = self._drivers.is_vfio_provider(node.address, driver)
        if (node.driver, bool(node.is_vfio_provider)) != (driver, provider):
            return True
        if node.vgpu_type is None:
            return False
        return self._drivers.vgpu(node.address) != (node.vgpu_type, node.vgpu_profiles)

    def _kernel_has(self, address: PciAddress) -> bool:
        """Whether the kernel has a function that libvirt has not announced, or not yet."""
        listed = self._drivers.addresses()
        return listed is not None and str(address) in listed

    def _by_address(self) -> Mapping[PciAddress, NodeDevice]:
        cached = self._cache.values()
        read, answer = self._answer
        if read is not cached:
            nodes = sorted(cached.values(), key=lambda node: node.address)
            answer = {node.address: node for node in nodes}
            self._answer = cached, answer
        return answer

    def _read_named(self, name: str) -> NodeDevice | None:
        """Read one; one that cannot be read has no place here, and stops no answer on others."""
        try:
            return self._node_devices.find_named(name)
        except (LibvirtFailedError, LibvirtDeniedError):
            return None

    def _read_all(self) -> Mapping[str, NodeDevice]:
        return {node.node_name: node for node in self._node_devices.list_devices()}
