"""What lies on the disks of this host."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import HostUse
from hypeman_libvirt.host.usage.block_devices import BlockDevice, BlockDevices
from hypeman_libvirt.host.usage.file_systems import FileSystems, StorageUse, list_storage_uses
from hypeman_libvirt.host.usage.mounts import Mount, Mounts, parse_mounts
from hypeman_libvirt.host.usage.shared_directories import find_share_devices, list_share_uses
from hypeman_libvirt.host.usage.sysfs import LocalFiles

_HOST_PID_NAMESPACE = "pid:[4026531836]"
"""Source: the kernel's include/linux/proc_ns.h, PROC_PID_INIT_INO."""

_NEEDED = ("/proc/swaps", "/proc/filesystems")
_SHOWN = 3


class LocalStorage:
    """What each block device of this host carries, at one moment."""

    def __init__(self, files: LocalFiles, blocks: BlockDevices, mounts: Mounts) -> None:
        """Follow all that the host has on block devices down to the hardware."""
        self._files = files
        self._blocks = blocks
        self._mounts = mounts
        self._carried: dict[str, set[str]] = {}
        self._untraced: set[str] = set()
        uses = list_storage_uses(FileSystems(mounts, files, blocks), files, blocks)
        self._has_pools = any(each.pool for use in uses for each in use.on)
        for use in uses:
            self._place(use)

    def list_uses(self, address: PciAddress, directory: str) -> Sequence[HostUse]:
        """Say what lies on the PCI device that has this directory in sysfs."""
        described = map(self._describe, self._blocks.list_inside(directory))
        uses = [HostUse(address, what, known=known) for what, known in filter(None, described)]
        return [*uses, *list_share_uses(self._files, self._mounts.listed, address, directory)]

    def has_disks(self, directory: str) -> bool:
        """Whether any block device is on the PCI device that has this directory in sysfs."""
        return bool(self._blocks.list_inside(directory))

    def _place(self, use: StorageUse) -> None:
        bases = {base for device in use.on for base in self._blocks.list_bases(device)}
        for base in bases:
            self._carried.setdefault(base.name, set()).add(use.what)
        if not bases or any(base.is_untraceable for base in bases):
            self._untraced.add(use.what)

    def _describe(self, device: BlockDevice) -> tuple[str, bool] | None:
        """Say what is on a block device, and whether that is known; None when it is idle.

        A device that others are made of is open, and a guest may use those, mounted or not.
        """
        if device.name in self._carried:
            return f"{device.name} carries {_join(self._carried[device.name])}", True
        if device.holders:
            return (
                f"{device.name} is part of {_join(device.holders)}, which may be in use",
                False,
            )
        if self._untraced and (device.is_partition or device.pool is not None):
            return f"{device.name} may carry a part of {_join(self._untraced)}", False
        if self._has_pools and device.pool == "":
            return f"{device.name} may be the cache or a spare of an imported ZFS pool", False
        return None


def read_storage(files: LocalFiles, blocks: BlockDevices) -> LocalStorage | None:
    """Read what lies on the disks; None where the mounts are not seen to be the host's."""
    mounts = read_host_mounts(files, blocks)
    return None if mounts is None else LocalStorage(files, blocks, mounts)


def read_host_mounts(files: LocalFiles, blocks: BlockDevices) -> Mounts | None:
    """Read what is mounted; None where that is not seen to be the host's.

    In a container it is not, nor where ``/proc`` is hidden. A root that cannot be followed to
    hardware is no proof of being the host's either: a container that shares the host's process
    namespace has one.
    """
    mounts = Mounts(tuple(parse_mounts(files.text("/proc/self/mountinfo"))), blocks)
    in_host = files.link("/proc/self/ns/pid") == _HOST_PID_NAMESPACE
    if not (in_host and all(map(files.text, _NEEDED))):
        return None
    root = mounts.find_holding("/")
    if root is None or not _is_on_hardware(root, files, mounts, blocks):
        return None
    return mounts


def _is_on_hardware(mount: Mount, files: LocalFiles, mounts: Mounts, blocks: BlockDevices) -> bool:
    if find_share_devices(files, mount):
        return True
    devices = mounts.find_devices(mount)
    return any(base.places for device in devices for base in blocks.list_bases(device))


def _join(names: Collection[str]) -> str:
    """List names for people, the shortest first, so that ``/`` leads."""
    ordered = sorted(names, key=lambda name: (len(name), name))
    listed = ", ".join(ordered[:_SHOWN])
    more = len(ordered) - _SHOWN
    return f"{listed} and {more} more" if more > 0 else listed
