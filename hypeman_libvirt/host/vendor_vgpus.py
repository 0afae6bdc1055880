"""vGPUs without mediated devices: what a vendor's driver says of a virtual function in sysfs.

Source: NVIDIA, Virtual GPU Software User Guide, on its vendor-specific VFIO framework (Linux 6.8).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from hypeman_libvirt.devices.node_device import VgpuProfile

NO_TYPE: Final = "0"
_DIRECTORY: Final = "nvidia"
_ENTRY: Final = re.compile(r"^\s*(\d+)\s*:\s*(\S.*?)\s*$", re.MULTILINE)
"""``ID : vGPU Name``, below a line that says just that."""


def read_vgpu(function: Path) -> tuple[str | None, tuple[VgpuProfile, ...]]:
    """Return the type of vGPU that a virtual function is, and those that it could be now.

    Args:
        function: Its directory in sysfs.

    Returns:
        The id of the type, ``0`` for none; None where its driver makes no vGPUs. While it is one,
        the driver offers no other.
    """
    current = _read(function / _DIRECTORY / "current_vgpu_type")
    if current is None:
        return None, ()
    creatable = _read(function / _DIRECTORY / "creatable_vgpu_types") or ""
    return current.strip(), parse_creatable(creatable)


def parse_creatable(text: str) -> tuple[VgpuProfile, ...]:
    """Read ``creatable_vgpu_types``; one virtual function is one vGPU at most."""
    entries = _ENTRY.findall(text)
    return tuple(VgpuProfile(type_id, name, 1, "vendor") for type_id, name in entries)


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
