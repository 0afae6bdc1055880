"""What this host has mounted, and on which block devices that lies."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from hypeman_libvirt.host.usage.block_devices import BlockDevice, BlockDevices
from hypeman_libvirt.host.usage.zfs import ZFS
from hypeman_libvirt.host.xml.node_tree import is_inside

_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_OVERLAY: Final = "overlay"
_LAYERS: Final = frozenset({"lowerdir", "upperdir"})


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of ``/proc/self/mountinfo``.

    Attributes:
        number: ``major:minor``; major is 0 where the file system is on no single block device.
        point: Where it is mounted.
        kind: Such as ``ext4``.
        source: What was mounted, such as ``/dev/sda1``; bcachefs joins several with ``:``.
        options: Of the file system, such as ``rw`` or ``logdev=/dev/sdb1``.

    Source: proc_pid_mountinfo(5).
    """

    number: str
    point: str
    kind: str
    source: str
    options: tuple[str, ...] = ()

    @property
    def pool(self) -> str:
        """The ZFS pool that it lies on; empty for other kinds."""
        return self.source.partition("/")[0] if self.kind == ZFS else ""

    @property
    def layers(self) -> Sequence[str]:
        """The directories that an overlay is made of; none for other kinds.

        Source: the kernel's Documentation/filesystems/overlayfs.rst.
        """
        pairs = [option.partition("=") for option in self.options]
        paths = [path for key, _, path in pairs if key in _LAYERS]
        return [each for path in paths for each in path.split(":") if self.kind == _OVERLAY]


def parse_mounts(text: str) -> Iterator[Mount]:
    """Read ``/proc/self/mountinfo``."""
    for line in text.splitlines():
        front, separator, back = line.partition(" - ")
        if separator:
            number, _, point = front.split(" ")[2:5]
            kind, source, *options = back.split(" ")
            listed = (unescape(option) for option in " ".join(options).split(","))
            yield Mount(number, unescape(point), kind, unescape(source), tuple(listed))


class Mounts:
    """What is mounted at one moment, the later over the earlier."""

    def __init__(self, mounts: Sequence[Mount], blocks: BlockDevices) -> None:
        """Take the mounts in the kernel's order."""
        self.listed = mounts
        self._blocks = blocks

    def find_holding(self, path: str, without: Collection[Mount] = ()) -> Mount | None:
        """Return the mount that a file lies on; None where none of these is above it."""
        above = [
            mount
            for mount in self.listed
            if mount not in without and is_inside(path, mount.point.rstrip("/"))
        ]
        return max(reversed(above), key=lambda mount: len(mount.point), default=None)

    def find_devices(self, mount: Mount, without: Collection[Mount] = ()) -> frozenset[BlockDevice]:
        """Find what a mount lies on; nothing where it is no block device or cannot be traced."""
        by_number = self._blocks.find(mount.number)
        if by_number is not None:
            return frozenset({by_number})
        if mount.pool:
            return self._blocks.list_pool(mount.pool)
        if mount.layers:
            return self._find_layers(mount, {*without, mount})
        return frozenset(filter(None, map(self._blocks.find_file, mount.source.split(":"))))

    def find_parts(self, mount: Mount) -> frozenset[BlockDevice]:
        """Find further devices that the options name, such as the log of XFS.

        Source: the kernel's Documentation/admin-guide/xfs.rst, logdev and rtdev.
        """
        paths = (option.partition("=")[2] for option in mount.options)
        return frozenset(filter(None, map(self._blocks.find_file, paths)))

    def _find_layers(self, mount: Mount, seen: Collection[Mount]) -> frozenset[BlockDevice]:
        """Follow an overlay to what its directories lie on, which may be overlays."""
        below = [self.find_holding(path, seen) for path in mount.layers]
        return frozenset[BlockDevice]().union(
            *(self.find_devices(each, seen) for each in below if each is not None)
        )


def unescape(text: str) -> str:
    """Undo the kernel's octal escapes of white space and backslash."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
