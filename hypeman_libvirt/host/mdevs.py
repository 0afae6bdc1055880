"""Mediated devices of the host: list, make and remove.

libvirt makes them with mdevctl, whose definitions outlive a restart of the host.

Source: https://libvirt.org/drvnodedev.html#mediated-devices-mdevs
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Final

import libvirt

from hypeman_libvirt.devices.address import MdevUuid
from hypeman_libvirt.devices.errors import DeviceNotFoundError, InUseError, LibvirtFailedError
from hypeman_libvirt.devices.node_device import MediatedDevice
from hypeman_libvirt.host.connection import Connection
from hypeman_libvirt.host.errors import FAILED, Meanings, is_gone
from hypeman_libvirt.host.xml.mdev import build_mdev, parse_mdev

_log: Final = logging.getLogger(__name__)
_MDEVS: Final = libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_MDEV
_MEANINGS: Final[Meanings] = {
    libvirt.VIR_ERR_NO_DOMAIN: FAILED,
    libvirt.VIR_ERR_DEVICE_MISSING: FAILED,
    libvirt.VIR_ERR_OPERATION_INVALID: FAILED,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: FAILED,
}
"""No domain is asked for here, and no VFIO of PCI functions."""
_REMOVE_MEANINGS: Final[Meanings] = {
    **_MEANINGS,
    libvirt.VIR_ERR_INTERNAL_ERROR: (
        InUseError,
        "something on the host has the vGPU open; end that first (fuser -v /dev/vfio/* names it)",
    ),
}


class MediatedDevices:
    """libvirt's mediated devices over one connection."""

    def __init__(self, connection: Connection) -> None:
        """Ask over this connection."""
        self._connection = connection

    def list_devices(self) -> Sequence[MediatedDevice]:
        """List all, active or only defined, by UUID.

        One that cannot be read is left out and named in the log.
        """
        listed = self._connection.read("listAllDevices", lambda c: list(_read_all(c, "mdev_")))
        return sorted(listed, key=lambda each: each.uuid)

    def find(self, mdev: MdevUuid) -> MediatedDevice | None:
        """Look up by UUID, active or only defined."""
        name = _name_of(mdev)
        listed = self._connection.read("listAllDevices", lambda c: list(_read_all(c, name)))
        return next((each for each in listed if each.uuid == mdev), None)

    def make(self, mdev: MdevUuid, parent: str, type_id: str, *, autostart: bool) -> None:
        """Define and start it, as far as that is not done.

        Args:
            mdev: The UUID that it gets.
            parent: libvirt's name of the parent.
            type_id: The kernel's name of the type.
            autostart: Start it with the host, too.
        """
        known = self.find(mdev)
        if known is None:
            xml = build_mdev(mdev, parent, type_id)
            self._connection.write(
                "nodeDeviceDefineXML", lambda c: c.nodeDeviceDefineXML(xml, 0), _MEANINGS
            )
        if known is None or not known.active:
            self._connection.write(
                "nodeDeviceCreate", lambda c: _look_up(c, mdev).create(0), _MEANINGS
            )
        if autostart and not (known and known.autostart):
            self._connection.write(
                "nodeDeviceSetAutostart", lambda c: _look_up(c, mdev).setAutostart(1), _MEANINGS
            )

    def remove(self, mdev: MdevUuid) -> None:
        """End and undefine it, as far as it is there."""
        known = self.find(mdev)
        if known is not None and known.active:
            self._connection.write(
                "nodeDeviceDestroy", lambda c: _look_up(c, mdev).destroy(), _REMOVE_MEANINGS
            )
        if known is not None and known.persistent:
            self._connection.write(
                "nodeDeviceUndefine", lambda c: _look_up(c, mdev).undefine(0), _MEANINGS
            )


def _name_of(mdev: MdevUuid) -> str:
    """Return how libvirt's name begins; its parent follows, since 8.1.

    Source: libvirt, nodeDeviceGenerateName() and udevProcessMediatedDevice().
    """
    return f"mdev_{mdev}".replace("-", "_")


def _look_up(connection: libvirt.virConnect, mdev: MdevUuid) -> libvirt.virNodeDevice:
    name = _name_of(mdev)
    for device in connection.listAllDevices(_MDEVS):
        if device.name().startswith(name):
            return device
    raise DeviceNotFoundError(f"libvirt has no mediated device {mdev}")


def _read_all(connection: libvirt.virConnect, prefix: str) -> Iterator[MediatedDevice]:
    for device in connection.listAllDevices(_MDEVS):
        if not device.name().startswith(prefix):
            continue
        try:
            yield _read(device)
        except LibvirtFailedError as error:
            _log.warning("mediated device %s is left out: %s", device.name(), error)
        except libvirt.libvirtError as error:
            if not is_gone(error):
                raise


def _read(device: libvirt.virNodeDevice) -> MediatedDevice:
    xml, active = parse_mdev(device.XMLDesc(0)), bool(device.isActive())
    return MediatedDevice(
        node_name=xml.node_name,
        uuid=xml.uuid,
        parent=xml.parent,
        type_id=xml.type_id,
        active=active,
        persistent=bool(device.isPersistent()),
        autostart=bool(device.autostart()),
        iommu_group=xml.iommu_group if active else None,
        driver=xml.driver if active else None,
    )
