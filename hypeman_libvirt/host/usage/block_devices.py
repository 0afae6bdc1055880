"""Block devices of this host: which lies on which, and on what hardware."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from hypeman_libvirt.host.usage.nvme import list_adapters, list_controllers
from hypeman_libvirt.host.usage.sysfs import LocalFiles
from hypeman_libvirt.host.usage.udev import read_block_record
from hypeman_libvirt.host.usage.zfs import pool_below, pool_on
from hypeman_libvirt.host.xml.node_tree import is_inside

_VIRTUAL = "/sys/devices/virtual/"
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
        file: The file that a loop device was set up on; empty for others.
        links: udev's symbolic links to it, relative to ``/dev``.
        pool: The ZFS pool that it carries a part of, see ``zfs.pool_on``; None without.
        in_pool: The ZFS pool that it is a volume of; None without.
    """

    name: str
    number: str
    label: str
    places: tuple[str, ...]
    lower: tuple[str, ...]
    holders: tuple[str, ...]
    is_partition: bool
    file: str = ""
    links: tuple[str, ...] = ()
    pool: str | None = None
    in_pool: str | None = None

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
        label = path.removeprefix("/dev/mapper/")
        return (
            self._by_label.get(label)
            or self._by_name.get(_name_of(path))
            or self._by_name.get(_name_of(self._files.resolve(path)))
            or self._find_linked(path.removeprefix("/dev/"))
        )

    def list_all(self) -> Collection[BlockDevice]:
        """Return all of them."""
        return self._by_name.values()

    def list_inside(self, directory: str) -> Sequence[BlockDevice]:
        """Return those on the hardware that has this directory in sysfs, by name."""
        return [
            device
            for device in self._by_name.values()
            if any(is_inside(place, directory) for place in device.places)
        ]

    def list_bases(self, device: BlockDevice) -> frozenset[BlockDevice]:
        """Follow what the device is made of down to where that ends: on hardware, if it does."""
        lower = self._list_lower(device)
        if device.places or not lower:
            return frozenset({device})
        return frozenset().union(*(self.list_bases(below) for below in lower))

    def list_pool(self, pool: str) -> frozenset[BlockDevice]:
        """Return those that carry a ZFS pool; none where udev knows of none."""
        return frozenset(each for each in self.list_all() if each.pool == pool)

    def _find_linked(self, link: str) -> BlockDevice | None:
        """Look up a symbolic link of udev's in udev's own records, where ``/dev`` lacks it."""
        return next((each for each in self.list_all() if link in each.links), None)

    def _list_lower(self, device: BlockDevice) -> Collection[BlockDevice]:
        if device.in_pool is not None:
            return self.list_pool(device.in_pool)
        return [self._by_name[name] for name in device.lower if name in self._by_name]


def _name_of(path: str) -> str:
    """Name what lies in ``/dev`` as the kernel does in sysfs: ``cciss!c0d0``."""
    return path.removeprefix("/dev/").replace("/", "!")


def _read(files: LocalFiles, name: str) -> BlockDevice:
    directory = files.resolve(f"/sys/class/block/{name}")
    is_partition = files.exists(f"{directory}/partition")
    backing = _backing(files, directory)
    number = files.text(f"{directory}/dev")
    record = read_block_record(files, number)
    lower = [*files.names(f"{directory}/slaves"), *filter(None, [_device_name(files, backing)])]
    if is_partition:
        lower.append(PurePosixPath(directory).parent.name)
    return BlockDevice(
        name=name,
        number=number,
        label=files.text(f"{directory}/dm/name"),
        places=_places(files, directory),
        lower=tuple(lower),
        holders=tuple(files.names(f"{directory}/holders")),
        is_partition=is_partition,
        file="" if backing.startswith("/dev/") else backing,
        links=record.links,
        pool=pool_on(record),
        in_pool=pool_below(record),
    )


def _backing(files: LocalFiles, directory: str) -> str:
    """Return the path that a loop device was set up on, or that zram writes idle pages to.

    Source: the kernel's drivers/block/loop.c and Documentation/admin-guide/blockdev/zram.rst.
    """
    path = files.text(f"{directory}/loop/backing_file") or files.text(f"{directory}/backing_dev")
    return "" if path == "none" else path.removesuffix(" (deleted)")


def _device_name(files: LocalFiles, path: str) -> str:
    return _name_of(files.resolve(path)) if path.startswith("/dev/") else ""


def _places(files: LocalFiles, directory: str) -> tuple[str, ...]:
    """Find the hardware; of NVMe that is what every controller of the disk lies on."""
    controllers = list_controllers(files, directory)
    if controllers:
        return tuple(place for each in controllers for place in list_adapters(files, each))
    return () if directory.startswith(_VIRTUAL) else (directory,)
