"""libvirt's XML of a domain: who it is and which devices of the host it holds.

Source: https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from lxml import etree
from lxml.etree import _Element as Element

from hypeman_libvirt.devices.address import (
    HostDeviceId,
    MdevUuid,
    PciAddress,
    parse_host_device_id,
)
from hypeman_libvirt.devices.domain import MetadataEntry
from hypeman_libvirt.devices.errors import InvalidPciAddressError, LibvirtFailedError
from hypeman_libvirt.host.xml.document import parse_xml, read_address, show_xml

DEVICES_NAMESPACE: Final = "urn:hypeman:libvirt:devices:1"
INSTANCE_NAMESPACE: Final = "urn:hypeman:libvirt:instance:1"
NAMESPACE_PREFIX: Final = "hypeman"

_HOSTDEVS: Final = (
    "devices/hostdev[@mode='subsystem'][@type='pci']/source/address",
    "devices/interface[@type='hostdev']/source/address",
    "devices/interface[@type='network']/actual[@type='hostdev']/source/address",
)
_MDEVS: Final = "devices/hostdev[@mode='subsystem'][@type='mdev']/source/address"
_INSTANCE: Final = f"metadata/{{{INSTANCE_NAMESPACE}}}instance"
_NODESETS: Final = ("numatune/memory", "numatune/memnode")


@dataclass(frozen=True, slots=True)
class DomainHostdev:
    """An element of a domain that holds a PCI function or a mediated device.

    Attributes:
        device: On the host.
        managed: libvirt binds it to vfio-pci at start and gives it back at stop.
        guest_address: In the guest; None until libvirt gave it one.
        xml: The element, as libvirt takes it to detach the device.
        kind: Which element it is.
    """

    device: HostDeviceId
    managed: bool
    guest_address: PciAddress | None
    xml: str
    kind: Literal["hostdev", "interface"]


class DomainXml:
    """One definition of a domain: the live one, or the one for its next start."""

    def __init__(self, xml: str) -> None:
        """Parse what ``virDomainGetXMLDesc()`` returned.

        Raises:
            LibvirtFailedError: The document is not what libvirt documents.
        """
        self.root: Final = parse_xml(xml)

    @property
    def is_live(self) -> bool:
        """libvirt gives an id to the live definition of an active domain only."""
        return self.root.get("id") is not None

    @property
    def instance_id(self) -> str | None:
        """What a control plane wrote into the metadata."""
        instance = self.root.find(_INSTANCE)
        return None if instance is None else instance.get("id") or None

    @property
    def numa_nodes(self) -> frozenset[int]:
        """Host nodes that the memory is bound to."""
        nodesets = (
            each.get("nodeset") or "" for path in _NODESETS for each in self.root.iterfind(path)
        )
        return frozenset(node for nodeset in nodesets for node in _read_nodeset(nodeset))

    @property
    def held(self) -> Sequence[DomainHostdev]:
        """Every PCI function of the host in it.

        Raises:
            LibvirtFailedError: An address is none.
        """
        sources = [source for path in _HOSTDEVS for source in self.root.iterfind(path)]
        try:
            return [_read_held(source, read_address(source)) for source in sources]
        except ValueError as error:
            name = self.root.findtext("name")
            raise LibvirtFailedError(f"domain {name} holds a device at no PCI address") from error

    def find(self, device: HostDeviceId) -> DomainHostdev | None:
        """Return the element that holds a device."""
        if isinstance(device, PciAddress):
            return next((held for held in self.held if held.device == device), None)
        sources = (each for each in self.root.iterfind(_MDEVS) if _uuid_of(each) == device.text)
        return next((_read_held(source, device) for source in sources), None)

    def with_hostdevs(self, hostdevs: Iterable[str]) -> str:
        """Return the definition with more devices, for ``virDomainDefineXML()``."""
        root = parse_xml(show_xml(self.root))
        devices = root.find("devices")
        if devices is None:
            devices = etree.SubElement(root, "devices")
        devices.extend(parse_xml(hostdev) for hostdev in hostdevs)
        return show_xml(root)

    def without(self, devices: Collection[HostDeviceId]) -> str:
        """Return the definition without these devices, for ``virDomainDefineXML()``."""
        root = parse_xml(show_xml(self.root))
        held = [source for path in _HOSTDEVS for source in root.iterfind(path)]
        going = [source for source in held if read_address(source) in devices]
        mdevs = {str(each) for each in devices if isinstance(each, MdevUuid)}
        going += [each for each in root.iterfind(_MDEVS) if _uuid_of(each) in mdevs]
        for source in going:
            element = _device_of(source)
            parent = element.getparent()
            if parent is not None:
                parent.remove(element)
        return show_xml(root)

    def with_moved(self, moves: Mapping[PciAddress, PciAddress]) -> str:
        """Return the definition with devices at other addresses of the host, all else the same.

        Args:
            moves: Where each is to be, by where it was.
        """
        root = parse_xml(show_xml(self.root))
        for source in [source for path in _HOSTDEVS for source in root.iterfind(path)]:
            moved_to = moves.get(read_address(source))
            if moved_to is not None:
                source.attrib.update(write_address(moved_to))
        return show_xml(root)


def build_hostdev(
    address: PciAddress,
    guest: PciAddress | None = None,
    *,
    managed: bool = True,
    multifunction: bool = False,
) -> str:
    """Write ``<hostdev>`` for a PCI function.

    Args:
        address: On the host.
        guest: In the guest; libvirt chooses one if it is None.
        managed: libvirt is to bind it to vfio-pci, and to give it back.
        multifunction: The guest probes for more functions in this slot.
    """
    hostdev = etree.Element("hostdev", mode="subsystem", type="pci")
    hostdev.set("managed", "yes" if managed else "no")
    source = etree.SubElement(hostdev, "source")
    etree.SubElement(source, "address", write_address(address))
    if guest is not None:
        element = etree.SubElement(hostdev, "address", write_address(guest), type="pci")
        if multifunction:
            element.set("multifunction", "on")
    return show_xml(hostdev)


def build_mdev_hostdev(mdev: MdevUuid, guest: PciAddress | None = None) -> str:
    """Write ``<hostdev>`` for a mediated device; libvirt has no drivers to manage for it.

    Args:
        mdev: On the host.
        guest: In the guest; libvirt chooses one if it is None.
    """
    hostdev = etree.Element(
        "hostdev", mode="subsystem", type="mdev", managed="no", model="vfio-pci"
    )
    source = etree.SubElement(hostdev, "source")
    etree.SubElement(source, "address", uuid=str(mdev))
    if guest is not None:
        etree.SubElement(hostdev, "address", write_address(guest), type="pci")
    return show_xml(hostdev)


def without_alias(xml: str) -> str:
    """Return the element of a running domain as libvirt takes it to attach the device again.

    An alias that libvirt has chosen belongs to the device that is going; users' begin with ``ua-``.
    """
    element = parse_xml(xml)
    alias = element.find("alias")
    if alias is not None and not alias.get("name", "").startswith("ua-"):
        element.remove(alias)
    return show_xml(element)


def join_devices(elements: Sequence[str]) -> str:
    """Write one device as it is, and several into one document, each on a line of its own.

    ``virsh attach-device`` takes one element at a time; a shell reads them line by line.
    """
    if len(elements) == 1:
        return elements[0]
    lines = (etree.tostring(parse_xml(each), encoding="unicode") for each in elements)
    return "\n".join(["<devices>", *lines, "</devices>", ""])


def build_metadata(entries: Sequence[MetadataEntry]) -> str:
    """Write our metadata without its namespace, which ``virDomainSetMetadata()`` puts into it."""
    devices = etree.Element("devices")
    for entry in entries:
        kind = "mdev_uuid" if isinstance(entry.device, MdevUuid) else "pci_address"
        facts = {"id": entry.id, "name": entry.name, kind: str(entry.device)}
        if entry.bound:
            facts["bound"] = " ".join(map(str, entry.bound))
        etree.SubElement(devices, "device", facts)
    return show_xml(devices)


def parse_metadata(xml: str) -> Sequence[MetadataEntry]:
    """Read our metadata, which ``virDomainGetMetadata()`` returns without its namespace.

    Raises:
        LibvirtFailedError: An entry is not in our format.
    """
    return [_read_entry(device) for device in parse_xml(xml).iterfind("{*}device")]


def _read_entry(device: Element) -> MetadataEntry:
    entry_id, name = device.get("id"), device.get("name")
    host_device = device.get("pci_address") or device.get("mdev_uuid")
    if not entry_id or not name or not host_device:
        raise LibvirtFailedError("an entry in the domain's metadata lacks id, name or pci_address")
    try:
        bound = tuple(PciAddress.parse(each) for each in device.get("bound", "").split())
        return MetadataEntry(entry_id, name, parse_host_device_id(host_device), bound)
    except InvalidPciAddressError as error:
        raise LibvirtFailedError(f"in the domain's metadata, {error.message}") from error


def _read_held(source: Element, device: HostDeviceId) -> DomainHostdev:
    element = _device_of(source)
    guest = element.find("address[@type='pci']")
    return DomainHostdev(
        device=device,
        managed=element.get("managed") == "yes",
        guest_address=None if guest is None else read_address(guest),
        xml=show_xml(element),
        kind="interface" if element.tag == "interface" else "hostdev",
    )


def _uuid_of(source: Element) -> str:
    return source.get("uuid", "").lower()


def _device_of(source: Element) -> Element:
    """Return the child of ``<devices>`` that a ``<source>``'s address lies in."""
    device = source
    for ancestor in source.iterancestors():
        if ancestor.tag == "devices":
            break
        device = ancestor
    return device


def write_address(address: PciAddress) -> dict[str, str]:
    """Write the attributes of an ``<address>``."""
    return {
        "domain": f"0x{address.domain:04x}",
        "bus": f"0x{address.bus:02x}",
        "slot": f"0x{address.slot:02x}",
        "function": f"0x{address.function:x}",
    }


def _read_nodeset(text: str) -> Iterator[int]:
    """Read ``0-3,^2,5``.

    Source: libvirt, ``virBitmapParse()``.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    excluded = {int(part[1:]) for part in parts if part.startswith("^")}
    for part in parts:
        if not part.startswith("^"):
            first, _, last = part.partition("-")
            yield from (n for n in range(int(first), int(last or first) + 1) if n not in excluded)
