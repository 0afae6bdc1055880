"""libvirt's XML of a PCI node device as a NodeDevice.

Source: https://libvirt.org/formatnode.html; the kernel prints what libvirt copies into it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Final, TypeAlias

from lxml.etree import _Element as Element

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import LibvirtFailedError
from hypeman_libvirt.devices.node_device import NodeDevice, PcieLink, VgpuProfile
from hypeman_libvirt.host.topology import topology_of_path
from hypeman_libvirt.host.xml.document import parse_or_recover, read_address

_log = logging.getLogger(__name__)

_PCI: Final = "capability[@type='pci']"
_DRIVER: Final = "driver/name"
_BRIDGES: Final = ("capability[@type='pci-bridge']", "capability[@type='cardbus-bridge']")
_GROUP: Final = "iommuGroup"
_PHYSICAL_FUNCTION: Final = "capability[@type='phys_function']/address"
_VIRTUAL_FUNCTIONS: Final = "capability[@type='virt_functions']/address"
_MAX_VIRTUAL_FUNCTIONS: Final = "capability[@type='virt_functions']"
_VPD_TEXT: Final = re.compile(
    r"^([ \t]*)<capability type=['\"]vpd['\"]>$.*?^\1</capability>$\n?", re.MULTILINE | re.DOTALL
)
"""The vital product data as libvirt prints it, which may be no XML.

Its values have no line ends, so whatever they say, the element's end stands alone on its line.
Source: libvirt 9.0, virPCIVPDResourceIsValidTextValue() and virNodeDeviceCapVPDFormat(), which
does not escape them.
"""
_VPD: Final = "capability[@type='vpd']"
_SERIAL: Final = "capability[@type='vpd']/fields[@access='readonly']/serial_number"
_PROFILES: Final = "capability[@type='mdev_types']/type"
_LINK: Final = "pci-express/link[@validity='{}']"


OnDamage: TypeAlias = Callable[[str, str], None]
"""Gets the name of a node device and what is wrong with its XML."""


def ignore_damage(_name: str, _damage: str) -> None:
    """Say nothing of it."""


def parse_node_device(xml: str, on_damage: OnDamage = ignore_damage) -> NodeDevice | None:
    """Read what ``virNodeDeviceGetXMLDesc()`` returned; None of a node that is no PCI function.

    Where the vital product data make it no XML, the device is read without them: libvirt 9.0
    does not escape an asset tag like ``R&D``.

    Args:
        xml: The document.
        on_damage: Is called when the vital product data cannot be parsed.

    Raises:
        LibvirtFailedError: The document is not what libvirt documents.
    """
    device, damage = parse_or_recover(xml)
    if damage is not None:
        device, _ = parse_or_recover(_VPD_TEXT.sub("", xml))
        on_damage(device.findtext("name", ""), damage)
    pci = device.find(_PCI)
    if pci is None and damage is None:
        return None
    if pci is None:
        raise LibvirtFailedError("libvirt answered with a node device that cannot be parsed")
    if damage is not None:
        for vpd in pci.findall(_VPD):
            pci.remove(vpd)
    try:
        return _read(device, pci)
    except ValueError as error:
        name = device.findtext("name")
        _log.warning("libvirt's XML of node device %s: %s", name, error)
        raise LibvirtFailedError(f"libvirt describes {name} in a way that is unknown") from error


def is_of_class(class_code: int | None, prefix: str) -> bool:
    """Compare the base class, or base class and subclass: the first hex digits of the code."""
    return class_code is not None and f"{class_code:06x}".startswith(prefix)


def _read(device: Element, pci: Element) -> NodeDevice:
    group = pci.find(_GROUP)
    physical = pci.find(_PHYSICAL_FUNCTION)
    return NodeDevice(
        node_name=device.findtext("name", ""),
        address=_own_address(pci),
        vendor_id=_pci_id(pci, "vendor"),
        device_id=_pci_id(pci, "product"),
        class_code=_hex(pci.findtext("class")),
        vendor_name=_text(pci, "vendor"),
        device_name=_text(pci, "product"),
        driver=_text(device, _DRIVER),
        iommu_group=None if group is None else int(group.get("number") or ""),
        group_addresses=() if group is None else tuple(sorted(_addresses(group, "address"))),
        is_bridge=any(pci.find(bridge) is not None for bridge in _BRIDGES),
        numa_node=_numa_node(pci),
        serial=_text(pci, _SERIAL),
        physical_function=None if physical is None else read_address(physical),
        virtual_functions=tuple(sorted(_addresses(pci, _VIRTUAL_FUNCTIONS))),
        max_virtual_functions=_max_virtual_functions(pci),
        link_capability=_link(pci, "cap"),
        link_status=_link(pci, "sta"),
        vgpu_profiles=tuple(_profile(each) for each in pci.iterfind(_PROFILES)),
        path=_text(device, "path"),
        parent=_text(device, "parent"),
        topology=topology_of_path(_text(device, "path")),
    )


def _own_address(pci: Element) -> PciAddress:
    """Read the address of the device itself, which alone is written in decimal."""
    return PciAddress(*(int(pci.findtext(part) or "") for part in _PARTS))


_PARTS: Final = ("domain", "bus", "slot", "function")


def _addresses(element: Element, path: str) -> list[PciAddress]:
    return [read_address(each) for each in element.iterfind(path)]


def _text(element: Element, path: str) -> str | None:
    return (element.findtext(path) or "").strip() or None


def _hex(text: str | None) -> int | None:
    return int(text, 16) if text else None


def _pci_id(pci: Element, tag: str) -> str:
    """Return ``id='0x27B8'`` as ``27b8``."""
    element = pci.find(tag)
    return f"{int('' if element is None else element.get('id') or '', 16):04x}"


def _numa_node(pci: Element) -> int | None:
    numa = pci.find("numa")
    return None if numa is None else int(numa.get("node") or "")


def _max_virtual_functions(pci: Element) -> int | None:
    """Read TotalVFs; libvirt says it where the function has SR-IOV, enabled or not."""
    functions = pci.find(_MAX_VIRTUAL_FUNCTIONS)
    return None if functions is None else int(functions.get("maxCount") or 0) or None


def _link(pci: Element, validity: str) -> PcieLink | None:
    """Read a link; libvirt leaves the speed out where the kernel does not know it."""
    link = pci.find(_LINK.format(validity))
    if link is None or not link.get("speed") or not link.get("width"):
        return None
    return PcieLink(float(link.get("speed") or ""), int(link.get("width") or ""))


def _profile(profile: Element) -> VgpuProfile:
    type_id = profile.get("id") or ""
    return VgpuProfile(
        type_id=type_id,
        name=_text(profile, "name") or type_id,
        available=int(profile.findtext("availableInstances") or 0),
    )
