"""ZFS pools of this host, and the disks that udev found their labels on.

The kernel does not know which disk carries which pool. udev reads the label of every
block device when it appears and when its last writer closes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypeman_libvirt.host.usage.sysfs import LocalFiles
from hypeman_libvirt.host.usage.udev import UdevRecord

ZFS: Final = "zfs"
_POOLS: Final = "/proc/spl/kstat/zfs"
_MEMBER: Final = "zfs_member"


def list_pools(files: LocalFiles) -> Sequence[str]:
    """List imported pools, mounted or not."""
    return [name for name in files.names(_POOLS) if files.names(f"{_POOLS}/{name}")]


def pool_on(record: UdevRecord) -> str | None:
    """Name the pool that a block device carries a part of, imported or not; None without.

    Empty for a cache or a spare, whose label does not name its pool.

    Source: util-linux, libblkid/src/superblocks/zfs.c.
    """
    if record.properties.get("ID_FS_TYPE") != _MEMBER:
        return None
    return record.properties.get("ID_FS_LABEL", "")


def pool_below(record: UdevRecord) -> str | None:
    """Name the pool that a volume lies in, by the link that udev makes for it; None without.

    Source: OpenZFS, udev/rules.d/60-zvol.rules.
    """
    links = (link.split("/") for link in record.links)
    return next((parts[1] for parts in links if parts[0] == "zvol" and len(parts) > 1), None)
