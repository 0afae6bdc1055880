"""What only this host's own kernel shows of a device's hardware: whether it answers at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, overload

from hypeman_libvirt.devices.address import PciAddress, is_pci_address
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.devices.surroundings import Hardware

_HEADER: Final = 64
"""Bytes of config space that everybody may read; PCI Local Bus Specification, section 6.1."""
_ONES: Final = b"\xff"
_BARS: Final = 6
_PREFETCHABLE: Final = 0x2000
_MEMORY_64: Final = 0x100000
_ADDRESS_BITS: Final = re.compile(r"^address sizes\s*: (\d+) bits physical", re.MULTILINE)


class LocalHardware:
    """Reads the hardware of devices from ``/sys``."""

    def __init__(self, root: Path = Path("/")) -> None:
        """Read below ``root``, which holds ``sys``."""
        self._root = os.fspath(root)

    def answers(self, node: NodeDevice) -> bool | None:
        """Whether the device answers on the bus; None where it is not this host's.

        A read of a device that is gone or dead gives all ones. A virtual function's vendor and
        device ids are all ones always, so that the whole header is read.

        Source: PCI Express Base Specification, sections 2.3.2 and 9.3.4.1.
        """
        if node.path is None or self._text(f"{node.path}/vendor") != f"0x{node.vendor_id}":
            return None
        try:
            with Path(self._root + node.path, "config").open("rb", buffering=0) as file:
                header = file.read(_HEADER)
        except OSError:
            return None
        return header.strip(_ONES) != b"" if header else None

    def read(self, node: NodeDevice) -> Hardware | None:
        """Read a function's BARs, how it is reset, and what is on its bus."""
        if node.path is None or self._text(f"{node.path}/vendor") != f"0x{node.vendor_id}":
            return None
        methods = self._text(f"{node.path}/reset_method", missing=None)
        return Hardware(
            memory_windows=list(_windows(self._text(f"{node.path}/resource"))),
            reset_methods=None if methods is None else methods.split(),
            bus_members=self._bus_members(node),
        )

    def address_bits(self) -> int | None:
        """Return how many physical address bits this host's CPUs have."""
        match = _ADDRESS_BITS.search(self._text("/proc/cpuinfo"))
        return int(match[1]) if match else None

    def _bus_members(self, node: NodeDevice) -> Sequence[PciAddress]:
        """List what is on the bus besides the function, which has the bridge's directory."""
        directory = Path(self._root + str(Path(node.path or "/").parent))
        try:
            names = [each.name for each in directory.iterdir()]
        except OSError:
            return ()
        found = [PciAddress.parse(name) for name in names if is_pci_address(name)]
        bus = (node.address.domain, node.address.bus)
        return sorted(
            each for each in found if (each.domain, each.bus) == bus and each != node.address
        )

    @overload
    def _text(self, path: str) -> str: ...

    @overload
    def _text(self, path: str, *, missing: None) -> str | None: ...

    def _text(self, path: str, *, missing: str | None = "") -> str | None:
        try:
            return Path(self._root + path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return missing


def _windows(resource: str) -> Iterator[int]:
    """Yield the sizes of 64-bit prefetchable BARs.

    Lines are start, end and flags; the first six are the BARs. Source: the kernel's
    Documentation/PCI/sysfs-pci.rst, and IORESOURCE_* in include/linux/ioport.h.
    """
    for line in resource.splitlines()[:_BARS]:
        start, end, flags = (int(each, 16) for each in line.split())
        if flags & _PREFETCHABLE and flags & _MEMORY_64:
            yield end - start + 1
