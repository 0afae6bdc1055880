"""Reads this machine's kernel and firmware."""

from __future__ import annotations

import errno
import os
import re
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
_DAEMONS: Final = ("virtqemud.conf", "libvirtd.conf")
_ACCESS_DRIVERS: Final = re.compile(r"""^\s*access_drivers\s*=.*["']polkit["']""", re.MULTILINE)
_RULES: Final = ("etc/udev/rules.d", "usr/lib/udev/rules.d", "lib/udev/rules.d")
_MDEVCTL_RULE: Final = "60-mdevctl.rules"
_MDEVCTL: Final = re.compile(r"""/[\w/-]*/mdevctl(?=[\s"'])""")


def read_machine(root: Path) -> Machine:
    """Read everything below ``root``, which is ``/`` but for tests."""
    return Machine(
        socket=_probe([root / each for each in _SOCKETS]),
        iommu_table=_iommu_table(root),
        groups=len(_names(root / "sys/kernel/iommu_groups")),
        command_line=_text(root / "proc/cmdline").split(),
        vfio=_vfio(root),
        lost_mdevctl=_lost_mdevctl(root),
        limits_rights=_limits_rights(root),
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


def _limits_rights(root: Path) -> bool | None:
    """Return whether libvirt asks polkit for each right, and not only whether to let one in.

    Source: https://libvirt.org/acl.html
    """
    settings = [_text(root / "etc/libvirt" / name) for name in _DAEMONS]
    if not any(settings):
        return None
    return any(_ACCESS_DRIVERS.search(each) for each in settings)


def _lost_mdevctl(root: Path) -> str | None:
    """Return where udev's rule looks for mdevctl in vain: then no mdev starts by itself.

    Source: Debian's mdevctl 1.2.0-3 and 1.4.0-2, whose rule names /usr/sbin and not /usr/bin.
    """
    texts = (_text(root / each / _MDEVCTL_RULE) for each in _RULES)
    called = next((match for text in texts if (match := _MDEVCTL.search(text))), None)
    if called is None or (root / called[0].lstrip("/")).exists():
        return None
    return called[0]


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
