"""The files in which the kernel of this host says what it does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import InvalidPciAddressError
from hypeman_libvirt.devices.rules import VFIO_PCI


class LocalFiles:
    """``/sys`` and ``/proc``; what is gone or may not be read reads as nothing.

    Devices come and go while their directories are read, so that a missing file is normal.
    """

    def __init__(self, root: Path) -> None:
        """Read below ``root``; the paths that callers name are those of the host."""
        self._root = Path(os.path.realpath(root))

    def text(self, path: str) -> str:
        """Return the content without white space at its ends; empty when there is none."""
        try:
            return self._below_root(path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def names(self, directory: str) -> Sequence[str]:
        """Return the names in a directory, sorted; none when there is no such directory."""
        try:
            return sorted(entry.name for entry in self._below_root(directory).iterdir())
        except OSError:
            return ()

    def exists(self, path: str) -> bool:
        """Whether there is such a file or directory."""
        return self._below_root(path).exists()

    def link(self, path: str) -> str:
        """Return what a symbolic link says; empty when it is none."""
        try:
            return str(self._below_root(path).readlink())
        except OSError:
            return ""

    def resolve(self, path: str) -> str:
        """Follow all symbolic links; the path itself where it leads nowhere."""
        target = os.path.realpath(self._below_root(path))
        return "/" + os.path.relpath(target, self._root)

    def _below_root(self, path: str) -> Path:
        return self._root / path.lstrip("/")


def provides_vfio(directory: str, driver: str | None) -> bool:
    """Whether the driver of a PCI function, other than vfio-pci, gives it to guests itself.

    Source: the kernel's drivers/vfio/vfio_main.c, vfio_alloc_device(), since 6.1.
    """
    if driver in {None, VFIO_PCI}:
        return False
    return os.path.isdir(f"{directory}/vfio-dev")  # noqa: PTH112 - asked for each device


def list_endpoints(path: str) -> frozenset[PciAddress]:
    """Return the PCI functions that a directory in sysfs lies on, without the bridges above them.

    Behind Intel VMD that is the disk's controller, and the VMD.

    Source: the kernel's pci_setup_device() and pci_create_root_bus(), which name the directories.
    """
    addresses = [*map(_read_address, path.split("/")), None]
    pairs = pairwise(addresses)
    return frozenset(each for each, below in pairs if each is not None and below is None)


def _read_address(name: str) -> PciAddress | None:
    try:
        return PciAddress.parse(name)
    except InvalidPciAddressError:
        return None
