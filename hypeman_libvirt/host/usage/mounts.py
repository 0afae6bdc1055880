"""What the host keeps on block devices: mounted file systems, swap, ZFS pools."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from hypeman_libvirt.host.usage.block_devices import BlockDevice, BlockDevices
from hypeman_libvirt.host.usage.sysfs import LocalFiles

_OCTAL = re.compile(r"\\([0-7]{3})")
_ZFS = "zfs"


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of ``/proc/self/mountinfo``.

    Attributes:
        number: ``major:minor``; major is 0 where the file system is on no single block device.
        point: Where it is mounted.
        kind: Such as ``ext4``.
        source: What was mounted, such as ``/dev/sda1``; bcachefs joins several with ``:``.

    Source: proc_pid_mountinfo(5).
    """

    number: str
    point: str
    kind: str
    source: str


@dataclass(frozen=True, slots=True)
class Load:
    """Something that the host keeps on block devices.

    Attributes:
        what: For people: a mount point, or ``swap``.
        on: The block devices directly below; empty when they cannot be told.
    """

    what: str
    on: frozenset[BlockDevice]


def parse_mounts(text: str) -> Iterator[Mount]:
    """Read ``/proc/self/mountinfo``."""
    for line in text.splitlines():
        front, separator, back = line.partition(" - ")
        if separator:
            number, _, point = front.split(" ")[2:5]
            kind, source = back.split(" ")[:2]
            yield Mount(number, _unescape(point), kind, _unescape(source))


def list_loads(
    mounts: Collection[Mount], files: LocalFiles, blocks: BlockDevices
) -> Sequence[Load]:
    """Gather all that block devices carry, however the kernel tells of it."""
    file_systems = _list_file_systems(files, blocks)
    mounted = _list_mounted(mounts, blocks, file_systems, _parse_disk_kinds(files))
    seen = frozenset[BlockDevice]().union(*(load.on for load in mounted))
    elsewhere = [load for load in file_systems if not load.on & seen]
    return [*mounted, *elsewhere, *_list_swaps(files, blocks), *_list_pools(files)]


def find_devices(mount: Mount, blocks: BlockDevices) -> frozenset[BlockDevice]:
    """Find what was mounted; nothing where it is no block device."""
    by_number = blocks.find(mount.number)
    if by_number is not None:
        return frozenset({by_number})
    return frozenset(filter(None, map(blocks.find_file, mount.source.split(":"))))


def _list_mounted(
    mounts: Collection[Mount],
    blocks: BlockDevices,
    file_systems: Collection[Load],
    disk_kinds: Collection[str],
) -> Sequence[Load]:
    loads = []
    for mount in mounts:
        devices = find_devices(mount, blocks)
        whole = [system.on for system in file_systems if system.on & devices]
        if devices or mount.kind in disk_kinds:
            loads.append(Load(mount.point, devices.union(*whole)))
    return loads


def _parse_disk_kinds(files: LocalFiles) -> frozenset[str]:
    """Name the kinds of file system that lie on disks; ZFS does without saying so.

    Source: proc_filesystems(5).
    """
    lines = files.text("/proc/filesystems").splitlines()
    return frozenset({line.strip() for line in lines if not line.startswith("nodev")} | {_ZFS})


def _list_file_systems(files: LocalFiles, blocks: BlockDevices) -> Sequence[Load]:
    """List what the kernel has mounted for anyone, in other mount namespaces too.

    ext4, f2fs and xfs show the block device's name; btrfs and bcachefs, which can lie on several,
    a directory for each file system.

    Source: the kernel's Documentation/ABI/testing/sysfs-fs-{ext4,f2fs,xfs} and btrfs_sysfs(5).
    """
    loads = []
    for kind in files.names("/sys/fs"):
        for entry in files.names(f"/sys/fs/{kind}"):
            names = {entry, *_list_members(files, f"/sys/fs/{kind}/{entry}")}
            devices = frozenset(filter(None, map(blocks.find_named, names)))
            if devices:
                loads.append(Load(f"a mounted {kind} file system", devices))
    return loads


def _list_members(files: LocalFiles, directory: str) -> Sequence[str]:
    of_bcachefs = [files.link(f"{directory}/{name}/block") for name in files.names(directory)]
    return [
        *files.names(f"{directory}/devices"),
        *(PurePosixPath(link).name for link in of_bcachefs),
    ]


def _list_swaps(files: LocalFiles, blocks: BlockDevices) -> Sequence[Load]:
    """List swap on block devices; a swap file lies on a file system that is mounted.

    Where the service has a ``/dev`` of its own the path is cut short, to ``/dm-1`` for one.

    Source: proc_swaps(5).
    """
    rows = [line.split() for line in files.text("/proc/swaps").splitlines()[1:]]
    paths = [_unescape(row[0]).removesuffix(" (deleted)") for row in rows if "partition" in row]
    found = (
        blocks.find_file(path) or blocks.find_named(PurePosixPath(path).name) for path in paths
    )
    return [Load("swap", frozenset(filter(None, [device]))) for device in found]


def _list_pools(files: LocalFiles) -> Sequence[Load]:
    """List imported ZFS pools, mounted or not; on which disks, only ZFS itself says."""
    directory = "/proc/spl/kstat/zfs"
    pools = [name for name in files.names(directory) if files.names(f"{directory}/{name}")]
    return [Load(f"the ZFS pool {pool}", frozenset()) for pool in pools]


def _unescape(text: str) -> str:
    """Undo the kernel's octal escapes of white space and backslash."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
