"""A cache of mediated devices, for reads that decide over no change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypeman_libvirt.devices.node_device import MediatedDevice
from hypeman_libvirt.host.cache.event_cache import EventCache
from hypeman_libvirt.host.connection import Announcement, Connection
from hypeman_libvirt.host.mdevs import MediatedDevices


class MdevCache:
    """A cache of mediated devices, which libvirt's events invalidate.

    libvirt announces which are defined, started, changed and ended.
    """

    def __init__(self, connection: Connection, mdevs: MediatedDevices) -> None:
        """Listen on the connection, and read nothing yet."""
        self._connection = connection
        self._mdevs = mdevs
        self._cache = EventCache(self._read_all, lambda _: None)
        connection.subscribe(self._hear)

    def list_devices(self) -> Sequence[MediatedDevice]:
        """List all, active or only defined, by UUID."""
        values = self._cache.values()
        if not self._connection.announces("node device"):  # known once connected
            return self._mdevs.list_devices()
        return list(values.values())

    def invalidate(self) -> None:
        """Have all of them read again."""
        self._cache.invalidate()

    def _hear(self, announcement: Announcement) -> None:
        """Read all again when one changes, or a PCI function: on that its parent may depend."""
        if announcement.kind in {"node device", "connection"}:
            name = announcement.name or ""
            if announcement.kind == "connection" or name.startswith(("pci_", "mdev_")):
                self._cache.invalidate()

    def _read_all(self) -> Mapping[str, MediatedDevice]:
        return {str(each.uuid): each for each in self._mdevs.list_devices()}
