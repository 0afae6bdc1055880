"""What domains refer to, traced through this host's sysfs to PCI functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import PurePosixPath
from typing import Final

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.host.usage.block_devices import BlockDevice, BlockDevices
from hypeman_libvirt.host.usage.file_systems import FileSystems
from hypeman_libvirt.host.usage.mounts import Mounts
from hypeman_libvirt.host.usage.shared_directories import find_share_devices
from hypeman_libvirt.host.usage.storage import read_host_mounts
from hypeman_libvirt.host.usage.sysfs import LocalFiles, list_endpoints
from hypeman_libvirt.host.xml.guest_devices import (
    InterfaceSource,
    MdevSource,
    PathSource,
    ScsiSource,
    Source,
    UsbSource,
    VhostScsiSource,
)

_CHARACTER_CLASSES: Final = ("drm", "hidraw", "input", "tty")
_VDPA: Final = "/sys/bus/vdpa/devices"
_USB: Final = "/sys/bus/usb/devices"
_VHOST_TARGETS: Final = "/sys/kernel/config/target/vhost"
_NONE: Final = frozenset[PciAddress]()


class LocalReferences:
    """Traces references on the host itself, at one moment."""

    def __init__(self, files: LocalFiles) -> None:
        """Read the block devices, and the mounts if they are seen to be the host's."""
        self._files = files
        self._blocks = BlockDevices(files)
        self._mounts = read_host_mounts(files, self._blocks)

    def trace(self, source: Source) -> frozenset[PciAddress] | None:
        """Return the functions that it lies on, none for one on no PCI; None when unknown."""
        match source:
            case PathSource(path):
                return self._trace_path(path)
            case InterfaceSource(name):
                return self._trace_interface(name)
            case MdevSource() | ScsiSource():
                return self._trace_directory(_directory_of(source))
            case VhostScsiSource(wwpn):
                return self._trace_target(wwpn)
            case UsbSource():
                return self._trace_usb(source)
            case _:
                return None

    def _trace_path(self, path: str) -> frozenset[PciAddress] | None:
        device = self._blocks.find_file(path)
        if device is not None:
            return self._trace_blocks([device])
        name = PurePosixPath(self._files.resolve(path)).name
        if path.startswith("/dev/"):
            return self._trace_character_device(name)
        return None if self._mounts is None else self._trace_file(path, self._mounts)

    def _trace_blocks(self, devices: Collection[BlockDevice]) -> frozenset[PciAddress] | None:
        bases = {base for device in devices for base in self._blocks.list_bases(device)}
        return _join(map(self._trace_base, bases))

    def _trace_base(self, base: BlockDevice) -> frozenset[PciAddress] | None:
        if base.is_untraceable:
            return None
        if base.file:
            return self._trace_path(base.file)
        return _join(map(list_endpoints, base.places))

    def _trace_file(self, path: str, mounts: Mounts) -> frozenset[PciAddress] | None:
        mount = mounts.find_holding(self._files.resolve(path))
        if mount is None:
            return None
        shares = find_share_devices(self._files, mount)
        if shares is not None:
            return _join(map(list_endpoints, shares))
        devices = FileSystems(mounts, self._files, self._blocks).find_devices(mount)
        return None if devices is None else self._trace_blocks(devices)

    def _trace_character_device(self, name: str) -> frozenset[PciAddress] | None:
        directories = [
            *(f"/sys/class/{each}/{name}" for each in _CHARACTER_CLASSES),
            *(f"{_VDPA}/{each}/{name}" for each in self._files.names(_VDPA)),
        ]
        directory = next(filter(self._files.exists, directories), None)
        return None if directory is None else self._trace_directory(directory)

    def _trace_directory(self, directory: str) -> frozenset[PciAddress] | None:
        if not self._files.exists(directory):
            return None
        return list_endpoints(self._files.resolve(directory))

    def _trace_interface(self, name: str) -> frozenset[PciAddress] | None:
        """Follow a bond, a bridge or a VLAN down to the cards.

        Source: the kernel's netdev_adjacent_sysfs_add(), which links those below.
        """
        directory = f"/sys/class/net/{name}"
        lower = [each for each in self._files.names(directory) if each.startswith("lower_")]
        if lower:
            return _join(self._trace_interface(each.removeprefix("lower_")) for each in lower)
        return self._trace_directory(directory)

    def _trace_target(self, wwpn: str) -> frozenset[PciAddress] | None:
        """Follow the logical units of a vhost target to the block devices or files below.

        Source: the kernel's Documentation/target/tcm_mod_builder.rst, on LIO's configfs.
        """
        units = f"{_VHOST_TARGETS}/{wwpn}/tpgt_1/lun"
        directories = [
            f"{units}/{unit}/{name}"
            for unit in self._files.names(units)
            for name in self._files.names(f"{units}/{unit}")
        ]
        paths = [self._files.text(f"{each}/udev_path") for each in directories]
        known = [path for path in paths if path]
        return _join(map(self._trace_path, known)) if known else None

    def _trace_usb(self, usb: UsbSource) -> frozenset[PciAddress] | None:
        """Find a USB device by its place, or all that have its ids.

        Source: the kernel's Documentation/ABI/testing/sysfs-bus-usb.
        """
        existing = [
            f"{_USB}/{name}" for name in self._files.names(_USB) if usb.is_at(self._read_usb(name))
        ]
        return _join(map(self._trace_directory, existing)) if existing else None

    def _read_usb(self, name: str) -> UsbSource:
        bus, device, vendor_id, product_id = (
            self._files.text(f"{_USB}/{name}/{each}")
            for each in ("busnum", "devnum", "idVendor", "idProduct")
        )
        return UsbSource(_number(bus), _number(device), vendor_id, product_id)


def _directory_of(source: MdevSource | ScsiSource) -> str:
    """Return where sysfs lists it.

    Source: the kernel's Documentation/driver-api/vfio-mediated-device.rst.
    """
    if isinstance(source, MdevSource):
        return f"/sys/bus/mdev/devices/{source.uuid}"
    return f"/sys/class/scsi_host/host{source.host}"


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() else None


def _join(traced: Iterable[frozenset[PciAddress] | None]) -> frozenset[PciAddress] | None:
    """Put together what several lie on; unknown if one of them is."""
    listed = list(traced)
    known = [each for each in listed if each is not None]
    return _NONE.union(*known) if len(known) == len(listed) else None
