"""What a domain's definition says of its machine, for passthrough.

Source: https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from lxml.etree import _Element as Element

from hypeman_libvirt.devices.surroundings import Chipset, GuestMachine
from hypeman_libvirt.host.xml.document import parse_xml

_UNITS: Final[Mapping[str, int]] = {
    "b": 1, "bytes": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "k": 2**10, "KiB": 2**10, "M": 2**20, "MiB": 2**20,
    "G": 2**30, "GiB": 2**30, "T": 2**40, "TiB": 2**40,
}  # fmt: skip
_HOLE: Final = "devices/controller[@type='pci']/pcihole64"
_HOST_CPUS: Final = frozenset({"host-passthrough", "maximum"})


def parse_guest_machine(
    xml: str, *, host_address_bits: int | None = None, unprivileged: bool = False
) -> GuestMachine:
    """Read a definition.

    Args:
        xml: What ``virDomainGetXMLDesc()`` returned.
        host_address_bits: What a CPU that is the host's has; None where that is unknown.
        unprivileged: It is of a libvirt session.

    Raises:
        LibvirtFailedError: The document is not what libvirt documents.
    """
    root = parse_xml(xml)
    own_bits = root.find("cpu/maxphysaddr")
    emulated = own_bits is not None and own_bits.get("mode") == "emulate"
    of_host = not emulated and (
        own_bits is not None or (root.find("cpu") is not None and _cpu_mode(root) in _HOST_CPUS)
    )
    bits = own_bits.get("bits") if own_bits is not None and emulated else None
    return GuestMachine(
        memory=_bytes(root.find("memory")) or 0,
        chipset=_chipset(root),
        pci_hole=_bytes(root.find(_HOLE)),
        address_bits=host_address_bits if of_host else int(bits) if bits else None,
        has_host_address_bits=of_host,
        hard_limit=_bytes(root.find("memtune/hard_limit")),
        has_iommu=root.find("devices/iommu") is not None,
        unprivileged=unprivileged,
    )


def _cpu_mode(root: Element) -> str:
    cpu = root.find("cpu")
    return "" if cpu is None else cpu.get("mode") or ""


def _chipset(root: Element) -> Chipset | None:
    machine = root.find("os/type")
    name = "" if machine is None else machine.get("machine") or ""
    if "q35" in name:
        return "q35"
    return "i440fx" if name == "pc" or name.startswith("pc-i440fx") else None


def _bytes(element: Element | None) -> int | None:
    """Return a size; libvirt's own unit is KiB."""
    if element is None or not (element.text or "").strip():
        return None
    return int(element.text or "") * _UNITS.get(element.get("unit") or "KiB", 2**10)
