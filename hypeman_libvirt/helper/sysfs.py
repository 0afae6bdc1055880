"""PCI functions in live sysfs: what the helper checks its arguments against, and writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import (
    DeviceNotFoundError,
    HelperFailedError,
    InvalidPciAddressError,
)

Write: TypeAlias = Callable[[Path, str], None]
"""Writes text into a file that exists; raises OSError as the kernel says."""
_CONFIG_SPACE: Final = 4096


def write_file(path: Path, text: str) -> None:
    """Write into a file that exists, and is no link."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class PciFunction:
    """A function that is there.

    Attributes:
        address: Where it is.
        directory: Its own in sysfs, no link.
    """

    address: PciAddress
    directory: Path
    _write: Write

    def text(self, name: str) -> str | None:
        """Return what a file says, without white space at its ends; None without the file."""
        try:
            return (self.directory / name).read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            return None

    def number(self, name: str) -> int | None:
        """Return the number in a file; None without one."""
        text = self.text(name) or ""
        return int(text) if text.isascii() and text.isdecimal() else None

    def hex_id(self, name: str) -> str:
        """Return a number like ``0x10DE`` as ``10de``; empty without one."""
        return (self.text(name) or "").lower().removeprefix("0x")

    def write(self, name: str, text: str) -> None:
        """Write into one of its files.

        Raises:
            HelperFailedError: The kernel refuses.
        """
        try:
            self._write(self.directory / name, text)
        except OSError as error:
            raise HelperFailedError(
                f"the kernel refuses {text!r} in {name} of {self.address}: {error.strerror}",
                hint="the kernel log of the host says why (dmesg)",
            ) from error

    def config_space(self) -> bytes:
        """Read the config space, 4096 bytes at most.

        Raises:
            HelperFailedError: It cannot be read.
        """
        try:
            with (self.directory / "config").open("rb") as file:
                return file.read(_CONFIG_SPACE)
        except OSError as error:
            raise HelperFailedError(
                f"the config space of {self.address} cannot be read: {error.strerror}"
            ) from error

    @property
    def driver(self) -> str | None:
        """The driver that has it; None without one."""
        return _link_name(self.directory / "driver")

    @property
    def topology(self) -> str:
        """The chain of bridges, without bus numbers: ``pci0000:00/08.0/00.0``."""
        parts = self.directory.parts
        first = next((i for i, part in enumerate(parts) if part.startswith("pci")), len(parts))
        return "/".join(_place(part) for part in parts[first:])

    def vfio_nodes(self) -> Iterator[str]:
        """List the files in ``/dev`` through which a guest has it.

        Source: the kernel's Documentation/driver-api/vfio.rst, group and device cdev.
        """
        group = _link_name(self.directory / "iommu_group")
        if group is not None:
            yield f"/dev/vfio/{group}"
            yield f"/dev/vfio/noiommu-{group}"
        yield from (f"/dev/vfio/devices/{each}" for each in _names(self.directory / "vfio-dev"))


class PciSysfs:
    """The PCI functions of the host."""

    def __init__(self, root: Path = Path("/"), write: Write = write_file) -> None:
        """Read below ``root``, which is ``/`` but for tests.

        Args:
            root: Has ``sys`` and ``proc``.
            write: Writes into a file of sysfs.
        """
        self._root = Path(os.path.realpath(root))
        self._write = write

    def find(self, address: PciAddress | str) -> PciFunction:
        """Return the function at an address.

        Raises:
            DeviceNotFoundError: None is there now.
        """
        link = self._root / "sys/bus/pci/devices" / str(address)
        directory = Path(os.path.realpath(link))
        inside = directory.is_relative_to(self._root / "sys/devices")
        if not (inside and directory.name == str(address) and directory.is_dir()):
            raise DeviceNotFoundError(f"no PCI device {address} on this host")
        return PciFunction(PciAddress.parse(directory.name), directory, self._write)

    def virtual_functions(self, physical: PciFunction) -> Sequence[PciFunction]:
        """List the virtual functions that are enabled now."""
        links = [each for each in _names(physical.directory) if each.startswith("virtfn")]
        names = [_link_name(physical.directory / each) for each in links]
        return [self.find(each) for each in names if each is not None]

    def physical_function(self, function: PciFunction) -> PciAddress:
        """Return the address of the physical function that it is, or that it belongs to."""
        name = _link_name(function.directory / "physfn")
        try:
            return function.address if name is None else PciAddress.parse(name)
        except InvalidPciAddressError:
            return function.address

    def users(self, functions: Collection[PciFunction]) -> Sequence[str]:
        """Name the processes that have any of the functions open through VFIO.

        Reading others' open files takes CAP_SYS_PTRACE.
        """
        nodes = {node for function in functions for node in function.vfio_nodes()}
        return [f"{name} (pid {pid})" for pid, name in self._open(nodes)] if nodes else []

    def _open(self, nodes: Collection[str]) -> Iterator[tuple[int, str]]:
        processes = self._root / "proc"
        for pid in (each for each in _names(processes) if each.isdecimal()):
            files = processes / pid / "fd"
            if any(_link(files / each) in nodes for each in _names(files)):
                comm = processes / pid / "comm"
                yield int(pid), _text(comm) or "a process"


def _place(part: str) -> str:
    return part if part.startswith("pci") else part.rpartition(":")[2]


def _names(directory: Path) -> Sequence[str]:
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208 - names of very many files
    except OSError:
        return ()


def _link(path: Path) -> str | None:
    try:
        return os.readlink(path)  # noqa: PTH115 - asked for each open file
    except OSError:
        return None


def _link_name(path: Path) -> str | None:
    link = _link(path)
    return None if link is None else link.rpartition("/")[2]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
