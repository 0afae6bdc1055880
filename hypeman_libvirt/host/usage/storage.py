"""What lies on the disks of this host."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.model import HostUse
from hypeman_libvirt.host.usage.block_devices import BlockDevice, BlockDevices
from hypeman_libvirt.host.usage.mounts import Load, Mount, find_devices, list_loads, parse_mounts
from hypeman_libvirt.host.usage.sysfs import LocalFiles

_HOST_PID_NAMESPACE = "pid:[4026531836]"
"""Source: the kernel's include/linux/proc_ns.h, PROC_PID_INIT_INO."""

_NEEDED = ("/proc/swaps", "/proc/filesystems")
_SHOWN = 3


class LocalStorage:
    """What each block device of this host carries, at one moment."""

    def __init__(self, blocks: BlockDevices, loads: Sequence[Load]) -> None:
        """Follow the loads down to the hardware."""
        self._blocks = blocks
        self._carried: dict[str, set[str]] = {}
        self._untraced: set[str] = set()
        for load in loads:
            self._place(load)

    def list_uses(self, address: PciAddress, directory: str) -> Sequence[HostUse]:
        """Say what lies on the PCI device that has this directory in sysfs."""
        found = map(self._describe, self._blocks.list_inside(directory))
        return [HostUse(address, what, known=known) for what, known in filter(None, found)]

    def _place(self, load: Load) -> None:
        bases = {base for device in load.on for base in self._blocks.list_bases(device)}
        for base in bases:
            self._carried.setdefault(base.name, set()).add(load.what)
        if not bases or any(base.is_untraceable for base in bases):
            self._untraced.add(load.what)

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
        if self._untraced and device.is_partition:
            return f"{device.name} may carry a part of {_join(self._untraced)}", False
        return None


def read_storage(files: LocalFiles) -> LocalStorage | None:
    """Read what lies on the disks; None where the mounts are not seen to be the host's.

    They are not in a container, nor where ``/proc`` is hidden. A root that cannot be followed to
    hardware, as with ZFS, is no proof of being the host's either.
    """
    mounts = list(parse_mounts(files.text("/proc/self/mountinfo")))
    in_host = files.link("/proc/self/ns/pid") == _HOST_PID_NAMESPACE
    if not (in_host and all(map(files.text, _NEEDED))):
        return None
    blocks = BlockDevices(files)
    if not _has_root_on_hardware(mounts, blocks):
        return None
    return LocalStorage(blocks, list_loads(mounts, files, blocks))


def _has_root_on_hardware(mounts: Collection[Mount], blocks: BlockDevices) -> bool:
    roots = [mount for mount in mounts if mount.point == "/"]
    devices = find_devices(roots[-1], blocks) if roots else ()
    return any(base.places for device in devices for base in blocks.list_bases(device))


def _join(names: Collection[str]) -> str:
    """List names for people, the shortest first, so that ``/`` leads."""
    ordered = sorted(names, key=lambda name: (len(name), name))
    shown = ", ".join(ordered[:_SHOWN])
    more = len(ordered) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
