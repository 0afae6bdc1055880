"""The port ``HostChanges`` on libvirt."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from hypeman_libvirt.devices.address import HostDeviceId, MdevUuid, PciAddress
from hypeman_libvirt.devices.domain import Domain, GuestInterface, MetadataEntry
from hypeman_libvirt.host.cache.caches import Caches
from hypeman_libvirt.host.domains import Domains
from hypeman_libvirt.host.mdevs import MediatedDevices
from hypeman_libvirt.host.node_devices import NodeDevices


class LibvirtChanges:
    """Changes over a connection; what they have changed is read anew by the caches."""

    def __init__(
        self,
        node_devices: NodeDevices,
        mdevs: MediatedDevices,
        domains: Domains,
        caches: Caches | None,
    ) -> None:
        """Change over the connection of these; what has changed is invalid in the caches."""
        self.bind = node_devices.bind
        self.unbind = node_devices.unbind
        self._node_devices = node_devices
        self._mdevs = mdevs
        self._domains = domains
        self._caches = caches

    def make_mdev(
        self, mdev: MdevUuid, parent: PciAddress, type_id: str, *, autostart: bool
    ) -> None:
        """Define a mediated device and start it."""
        name = self._node_devices.name_of(parent)
        with self._changing_mdevs():
            self._mdevs.make(mdev, name, type_id, autostart=autostart)

    def remove_mdev(self, mdev: MdevUuid) -> None:
        """End a mediated device and its definition."""
        with self._changing_mdevs():
            self._mdevs.remove(mdev)

    def attach(
        self,
        domain: Domain,
        devices: Sequence[HostDeviceId],
        unmanaged: Collection[HostDeviceId] = (),
        interface: GuestInterface | None = None,
    ) -> None:
        """Give the devices to the domain."""
        with self._changing(domain):
            self._domains.attach(domain, devices, unmanaged, interface)

    def detach(self, domain: Domain, devices: Sequence[HostDeviceId]) -> None:
        """Ask for the devices back."""
        with self._changing(domain):
            self._domains.detach(domain, devices)

    def move_devices(self, domain: Domain, moves: Mapping[PciAddress, PciAddress]) -> None:
        """Say in the domain's definition that devices are at other addresses."""
        with self._changing(domain):
            self._domains.move_devices(domain, moves)

    def write_metadata(self, domain: Domain, entries: Sequence[MetadataEntry]) -> None:
        """Make the entries our metadata of the domain."""
        with self._changing(domain):
            self._domains.write_metadata(domain, entries)

    @contextmanager
    def _changing(self, domain: Domain) -> Iterator[None]:
        try:
            yield
        finally:
            if self._caches is not None:
                self._caches.domains.invalidate(domain.name)

    @contextmanager
    def _changing_mdevs(self) -> Iterator[None]:
        """Invalidate mediated devices, and PCI functions, which say how many more fit."""
        try:
            yield
        finally:
            if self._caches is not None:
                self._caches.node_devices.invalidate()
                self._caches.mdevs.invalidate()
