"""What udev has recorded of a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hypeman_libvirt.host.usage.sysfs import LocalFiles


@dataclass(frozen=True, slots=True)
class UdevRecord:
    """One device's record; empty where udev does not run or its records cannot be seen.

    Attributes:
        links: Symbolic links to the device, relative to ``/dev``.
        properties: Such as ``ID_FS_TYPE``.

    Source: systemd's src/libsystemd/sd-device/device-private.c, device_update_db().
    """

    links: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)


def read_block_record(files: LocalFiles, number: str) -> UdevRecord:
    """Read the record of the block device ``major:minor``."""
    lines = files.text(f"/run/udev/data/b{number}").splitlines()
    pairs = (line[2:].partition("=") for line in lines if line.startswith("E:"))
    return UdevRecord(
        links=tuple(line[2:] for line in lines if line.startswith("S:")),
        properties={key: value for key, _, value in pairs},
    )
