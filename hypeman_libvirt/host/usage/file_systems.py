"""What the host has on block devices: mounted file systems, their logs, swap, ZFS pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from hypeman_libvirt.host.usage.block_devices import BlockDevice, BlockDevices
from hypeman_libvirt.host.usage.mounts import Mount, Mounts, unescape
from hypeman_libvirt.host.usage.sysfs import LocalFiles
from hypeman_libvirt.host.usage.zfs import ZFS, list_pools


@dataclass(frozen=True, slots=True)
class StorageUse:
    """Something that the host has on block devices.

    Attributes:
        what: For people: a mount point, or ``swap``.
        on: The block devices directly below; empty when they cannot be traced.
    """

    what: str
    on: frozenset[BlockDevice]


class FileSystems:
    """File systems that the kernel has mounted, for this mount namespace or another."""

    def __init__(self, mounts: Mounts, files: LocalFiles, blocks: BlockDevices) -> None:
        """Read which kinds lie on disks, and what sysfs says of mounted ones."""
        self._mounts = mounts
        self._disk_kinds = _parse_disk_kinds(files)
        self._shown = _list_shown(files, blocks)

    def list_uses(self) -> Sequence[StorageUse]:
        """List what is mounted, and what another namespace has mounted."""
        mounted = [use for mount in self._mounts.listed for use in self._list_mounted(mount)]
        seen = frozenset[BlockDevice]().union(*(use.on for use in mounted))
        return [*mounted, *(use for use in self._shown if not use.on & seen)]

    def find_devices(self, mount: Mount) -> frozenset[BlockDevice] | None:
        """Find all devices that a mount lies on; None where they cannot be traced.

        A file system of user space may lie on anything.
        """
        devices = self._find_whole(mount) | self._mounts.find_parts(mount)
        untraceable = mount.kind in self._disk_kinds or mount.kind.startswith("fuse")
        return None if untraceable and not devices else devices

    def _list_mounted(self, mount: Mount) -> Sequence[StorageUse]:
        """Say what a mount uses; an overlay, what the mounts of its layers use already."""
        if mount.layers:
            return []
        devices, parts = self._find_whole(mount), self._mounts.find_parts(mount)
        uses = [StorageUse(f"a part of {mount.point}", parts)] if parts else []
        if devices or mount.kind in self._disk_kinds:
            uses.append(StorageUse(mount.point, devices))
        return uses

    def _find_whole(self, mount: Mount) -> frozenset[BlockDevice]:
        devices = self._mounts.find_devices(mount)
        return devices.union(*(use.on for use in self._shown if use.on & devices))


def list_storage_uses(
    systems: FileSystems, files: LocalFiles, blocks: BlockDevices
) -> Sequence[StorageUse]:
    """Gather all that block devices carry, from wherever the kernel reports it."""
    return [
        *systems.list_uses(),
        *_list_journals(files, blocks),
        *_list_swaps(files, blocks),
        *(StorageUse(f"the ZFS pool {pool}", blocks.list_pool(pool)) for pool in list_pools(files)),
    ]


def _parse_disk_kinds(files: LocalFiles) -> frozenset[str]:
    """Name the kinds of file system that lie on disks; ZFS does without saying so.

    Source: proc_filesystems(5).
    """
    lines = files.text("/proc/filesystems").splitlines()
    return frozenset({line.strip() for line in lines if not line.startswith("nodev")} | {ZFS})


def _list_shown(files: LocalFiles, blocks: BlockDevices) -> Sequence[StorageUse]:
    """List what sysfs says of mounted file systems.

    ext4, f2fs and xfs show the block device's name; btrfs and bcachefs, which can lie on several,
    a directory for each file system.

    Source: the kernel's Documentation/ABI/testing/sysfs-fs-{ext4,f2fs,xfs} and btrfs_sysfs(5).
    """
    uses = []
    for kind in files.names("/sys/fs"):
        for entry in files.names(f"/sys/fs/{kind}"):
            names = {entry, *_list_parts(files, f"/sys/fs/{kind}/{entry}")}
            devices = frozenset(filter(None, map(blocks.find_named, names)))
            if devices:
                uses.append(StorageUse(f"a mounted {kind} file system", devices))
    return uses


def _list_parts(files: LocalFiles, directory: str) -> Sequence[str]:
    of_bcachefs = [files.link(f"{directory}/{name}/block") for name in files.names(directory)]
    return [
        *files.names(f"{directory}/devices"),
        *(PurePosixPath(link).name for link in of_bcachefs),
    ]


def _list_journals(files: LocalFiles, blocks: BlockDevices) -> Sequence[StorageUse]:
    """List external journals of ext4: those called after a block device.

    An internal one is called after the device and its inode, such as ``sda1-8``.

    Source: the kernel's fs/jbd2/journal.c, jbd2_journal_init_dev() and jbd2_stats_proc_init().
    """
    journals = filter(None, map(blocks.find_named, files.names("/proc/fs/jbd2")))
    return [StorageUse("the journal of a file system", frozenset({each})) for each in journals]


def _list_swaps(files: LocalFiles, blocks: BlockDevices) -> Sequence[StorageUse]:
    """List swap on block devices; a swap file lies on a file system that is mounted.

    Where the service has a ``/dev`` of its own the path lacks its start, as in ``/dm-1``.

    Source: proc_swaps(5).
    """
    rows = [line.split() for line in files.text("/proc/swaps").splitlines()[1:]]
    paths = [unescape(row[0]).removesuffix(" (deleted)") for row in rows if "partition" in row]
    devices = (
        blocks.find_file(path) or blocks.find_named(PurePosixPath(path).name) for path in paths
    )
    return [StorageUse("swap", frozenset(filter(None, [device]))) for device in devices]
