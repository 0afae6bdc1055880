"""Reads this machine's kernel and firmware."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from hypeman_libvirt.doctor.facts import Machine, Socket

_SOCKETS: Final = (
    "run/libvirt/libvirt-sock",
    "run/libvirt/virtqemud-sock",
    "run/libvirt/virtxend-sock",
)
_IOMMU_TABLES: Final = ("DMAR", "IVRS", "IORT", "VIOT")
"""Of Intel, AMD, Arm and virtio. Source: the ACPI specification, section 5.2.6."""
_CONFIGURATIONS: Final = ("libvirtd.conf", "virtqemud.conf", "virtnodedevd.conf")
_NO_UUID: Final = 2
"""A UUID of fewer different digits is one that the firmware left empty; as libvirt has it."""


def read_machine(root: Path) -> Machine:
    """Read everything below ``root``, which is ``/`` but for tests."""
    return Machine(
        socket=_probe([root / each for each in _SOCKETS]),
        iommu_table=_iommu_table(root),
        groups=len(_names(root / "sys/kernel/iommu_groups")),
        command_line=_text(root / "proc/cmdline").split(),
        vfio=_vfio(root),
        firmware_uuid=_firmware_uuid(root),
        uuid_chosen=any(_chooses_uuid(root / "etc/libvirt" / each) for each in _CONFIGURATIONS),
    )


def _probe(paths: Sequence[Path]) -> Socket:
    """Return the best that any socket says."""
    answers = [_connect(path) for path in paths]
    for best in ("answers", "denied", "silent"):
        if best in answers:
            return best
    return "missing"


def _connect(path: Path) -> Socket:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError as error:
            if error.errno in {errno.EACCES, errno.EPERM}:
                return "denied"
            return "silent" if error.errno == errno.ECONNREFUSED else "missing"
    return "answers"


def _iommu_table(root: Path) -> str | None:
    tables = _names(root / "sys/firmware/acpi/tables")
    return next((each for each in _IOMMU_TABLES if each in tables), None)


def _vfio(root: Path) -> Literal["loaded", "loadable", "missing"]:
    if (root / "sys/bus/pci/drivers/vfio-pci").exists():
        return "loaded"
    modules = root / "lib/modules" / _text(root / "proc/sys/kernel/osrelease")
    known = _text(modules / "modules.dep") + _text(modules / "modules.builtin")
    return "loadable" if "/vfio-pci.ko" in known else "missing"


def _firmware_uuid(root: Path) -> str | None:
    try:
        uuid = (root / "sys/class/dmi/id/product_uuid").read_text().strip().lower()
    except PermissionError:
        return None
    except OSError:
        return ""
    return uuid if len(set(uuid) - {"-"}) >= _NO_UUID else ""


def _chooses_uuid(configuration: Path) -> bool:
    lines = [line.replace(" ", "") for line in _text(configuration).splitlines()]
    return any(line.startswith(("host_uuid=", 'host_uuid_source="machine-id"')) for line in lines)


def _names(directory: Path) -> Sequence[str]:
    try:
        return sorted(each.name for each in directory.iterdir())
    except OSError:
        return ()


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
