"""What the kernel of this host knows of a card and its driver, and libvirt does not."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from hypeman_libvirt.devices.node_device import NodeDevice, VgpuProfile
from hypeman_libvirt.host.usage.sysfs import provides_vfio
from hypeman_libvirt.host.vendor_vgpus import read_vgpu

_EXTENDED: Final = 0x100
"""Where extended capabilities begin in config space."""
_CONFIG_SPACE: Final = 4096
_SERIAL_NUMBER: Final = 0x0003
"""Device Serial Number Extended Capability; PCI Express Base Specification, section 7.9.3."""
_REMEMBERED: Final = 4096
_UNIQUE_INODES: Final = (5, 5)
"""Since this kernel a number in sysfs is not given again in a boot, where it has 64 bit.

Source: fs/kernfs, commit 40430452fd5d.
"""


class LocalMarkings:
    """Reads subsystem ids, serial number, incarnation and who provides VFIO from ``/sys``.

    What cannot be read is unknown. Config space beyond 64 bytes is root's.
    """

    def __init__(self, root: Path = Path("/"), release: str | None = None) -> None:
        """Read below ``root``.

        Args:
            root: Directory that holds ``sys`` and ``proc``.
            release: Of the kernel, such as ``6.1.0-18-amd64``; None for the one that runs.
        """
        self._root = os.fspath(root)
        self._boot = self._text("/proc/sys/kernel/random/boot_id")
        self._unique = _version(release or os.uname().release) >= _UNIQUE_INODES
        self._may_read_all = True
        self._subsystem = lru_cache(_REMEMBERED)(self._read_subsystem)
        self._serial = lru_cache(_REMEMBERED)(self._read_serial)

    def complete(self, node: NodeDevice) -> NodeDevice:
        """Add what the kernel shows, if libvirt speaks of this kernel's device."""
        if node.path is None or not self._is_here(node):
            return node
        incarnation = self._incarnation(node.path)
        try:
            serial = self._serial(node.path, incarnation)
        except OSError:
            serial = None
        vgpu_type, vgpu_profiles = self._vgpu(node)
        return replace(
            node,
            vgpu_type=vgpu_type,
            vgpu_profiles=vgpu_profiles or node.vgpu_profiles,
            subsystem=self._subsystem(node.path, incarnation),
            device_serial=serial,
            incarnation=incarnation,
            is_vfio_provider=provides_vfio(self._root + node.path, node.driver),
            autoprobe=self._autoprobe(node),
        )

    def _vgpu(self, node: NodeDevice) -> tuple[str | None, tuple[VgpuProfile, ...]]:
        """Read what of a virtual function libvirt does not know: vGPUs without mediated devices."""
        if node.path is None or node.physical_function is None:
            return None, ()
        return read_vgpu(Path(self._root + node.path))

    def _autoprobe(self, node: NodeDevice) -> bool | None:
        if node.max_virtual_functions is None:
            return None
        text = self._text(f"{node.path}/sriov_drivers_autoprobe")
        return text == "1" if text else None

    def _is_here(self, node: NodeDevice) -> bool:
        ids = [self._text(f"{node.path}/{name}") for name in ("vendor", "device")]
        return ids == [f"0x{node.vendor_id}", f"0x{node.device_id}"]

    def _incarnation(self, path: str) -> str | None:
        if not (self._boot and self._unique):
            return None
        try:
            return f"{self._boot}:{os.stat(self._root + path).st_ino}"  # noqa: PTH116 - asked for each device
        except OSError:
            return None

    def _read_subsystem(self, path: str, _: str | None) -> str | None:
        ids = [self._text(f"{path}/subsystem_{name}") for name in ("vendor", "device")]
        return ":".join(each.removeprefix("0x") for each in ids) if all(ids) else None

    def _read_serial(self, path: str, _: str | None) -> str | None:
        """Read the serial number; who may not is not asked again, for reading wakes the card.

        Raises:
            OSError: The card does not answer now.
        """
        if not self._may_read_all:
            return None
        config = Path(self._root + path, "config").read_bytes()
        if len(config) < _EXTENDED:
            self._may_read_all = os.geteuid() == 0
            return None
        return serial_in(config)

    def _text(self, path: str) -> str:
        try:
            return Path(self._root + path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""


def serial_in(config: bytes) -> str | None:
    """Return the Device Serial Number, as lspci prints it; None where the card has none.

    Raises:
        OSError: All ones: the card does not answer.
    """
    if config.startswith(b"\xff\xff"):
        raise OSError("config space reads all ones")
    offset, seen = _EXTENDED, set[int]()
    while offset >= _EXTENDED and offset + 12 <= min(len(config), _CONFIG_SPACE):
        if offset in seen:
            return None
        seen.add(offset)
        (header,) = struct.unpack_from("<I", config, offset)
        if header & 0xFFFF == _SERIAL_NUMBER:
            return config[offset + 4 : offset + 12][::-1].hex("-")
        offset = header >> 20 & 0xFFC
    return None


def _version(release: str) -> tuple[int, int]:
    numbers = re.match(r"(\d+)\.(\d+)", release)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
