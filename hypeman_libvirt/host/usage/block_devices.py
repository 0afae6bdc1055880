"""Block devices of this host: which lies on which, and on what hardware."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from hypeman_libvirt.host.usage.sysfs import LocalFiles
from hypeman_libvirt.host.xml.node_tree import is_inside

_VIRTUAL = "/sys/devices/virtual/"
_NVME_SUBSYSTEM = re.compile(r"(/sys/devices/virtual/nvme-subsystem/[^/]+)/")
_NVME_CONTROLLER = re.compile(r"nvme\d+")
_WITHOUT_HARDWARE = re.compile(r"(loop|nbd|ram|rbd|zram)\d")


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """A disk, a partition, or something that the kernel made of them.

    Attributes:
        name: The kernel's, such as ``sda3`` or ``dm-0``.
        number: ``major:minor``.
        label: Device mapper's name, such as ``vg-root``; empty for others.
        places: Directories in sysfs of the hardware it is on; empty for one made of others.
        lower: Names of those it is made of, or that it is a partition of.
        holders: Names of those that are made of it.
        is_partition: It is a partition of a disk.
    """

    name: str
    number: str
    label: str
    places: tuple[str, ...]
    lower: tuple[str, ...]
    holders: tuple[str, ...]
    is_partition: bool

    @property
    def is_untraceable(self) -> bool:
        """As a base: nothing says on which hardware it is, as with a volume of ZFS.

        Memory, the network and a file on another file system are no such hardware.
        """
        return not (self.places or _WITHOUT_HARDWARE.match(self.name))


class BlockDevices:
    """All block devices at one moment.

    Source: the kernel's Documentation/ABI/stable/sysfs-block.
    """

    def __init__(self, files: LocalFiles) -> None:
        """Read them from ``/sys/class/block``."""
        self._files = files
        names = files.names("/sys/class/block")
        self._by_name = {name: _read(files, name) for name in names}
        self._by_number = {device.number: device for device in self._by_name.values()}
        self._by_label = {device.label: device for device in self._by_name.values() if device.label}

    def find(self, number: str) -> BlockDevice | None:
        """Look up by ``major:minor``."""
        return self._by_number.get(number)

    def find_named(self, name: str) -> BlockDevice | None:
        """Look up by the kernel's name."""
        return self._by_name.get(name)

    def find_file(self, path: str) -> BlockDevice | None:
        """Look up by a path in ``/dev``, be it a symbolic link."""
        if not path.startswith("/dev/"):
            return None
        name = PurePosixPath(path).name
        if path.startswith("/dev/mapper/") and name in self._by_label:
            return self._by_label[name]
        return self._by_name.get(name) or self._by_name.get(
            PurePosixPath(self._files.resolve(path)).name
        )

    def list_inside(self, directory: str) -> Sequence[BlockDevice]:
        """Return those on the hardware that has this directory in sysfs, by name."""
        return [
            device
            for device in self._by_name.values()
            if any(is_inside(place, directory) for place in device.places)
        ]

    def list_bases(self, device: BlockDevice) -> frozenset[BlockDevice]:
        """Follow what the device is made of down to where that ends: on hardware, if it does."""
        lower = [self._by_name[name] for name in device.lower if name in self._by_name]
        if device.places or not lower:
            return frozenset({device})
        return frozenset().union(*(self.list_bases(below) for below in lower))


def _read(files: LocalFiles, name: str) -> BlockDevice:
    directory = files.resolve(f"/sys/class/block/{name}")
    is_partition = files.exists(f"{directory}/partition")
    lower = [*files.names(f"{directory}/slaves"), *_backing(files, directory)]
    if is_partition:
        lower.append(PurePosixPath(directory).parent.name)
    return BlockDevice(
        name=name,
        number=files.text(f"{directory}/dev"),
        label=files.text(f"{directory}/dm/name"),
        places=_places(files, directory),
        lower=tuple(lower),
        holders=tuple(files.names(f"{directory}/holders")),
        is_partition=is_partition,
    )


def _backing(files: LocalFiles, directory: str) -> Sequence[str]:
    """Name the block device that a loop device was set up on; none when it is a file."""
    path = files.text(f"{directory}/loop/backing_file")
    return [PurePosixPath(files.resolve(path)).name] if path.startswith("/dev/") else []


def _places(files: LocalFiles, directory: str) -> tuple[str, ...]:
    """Find the hardware; with NVMe multipath that is every controller of the subsystem.

    Source: the kernel's nvme_init_subsystem(), which links the controllers there.
    """
    if not directory.startswith(_VIRTUAL):
        return (directory,)
    subsystem = _NVME_SUBSYSTEM.match(directory)
    if subsystem is None:
        return ()
    names = filter(_NVME_CONTROLLER.fullmatch, files.names(subsystem[1]))
    return tuple(files.resolve(f"{subsystem[1]}/{name}") for name in names)
