"""libvirt's XML of a domain: devices of the host that it uses without having them themselves.

``host.xml.domain`` reads the PCI functions that a domain has. Here is all else that a domain
refers to and that lies on a PCI device: its disks, its SCSI and USB devices, its mediated devices.

Source: https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from lxml.etree import _Element as Element

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import LibvirtFailedError
from hypeman_libvirt.host.xml.document import read_address

GuestDeviceKind: TypeAlias = Literal[
    "mdev",
    "nvme_disk",
    "block_disk",
    "scsi",
    "scsi_host",
    "usb",
    "vdpa",
    "macvtap",
    "char_device",
]

_IMAGES: Final = frozenset({"disk", "backingStore", "mirror", "dataStore"})
"""Elements whose ``<source>`` says where a disk's data lies; others name a socket or a key."""
_CHARACTER_DEVICES: Final = ("serial", "parallel", "console", "channel")


@dataclass(frozen=True, slots=True)
class PciSource:
    """A PCI function itself."""

    address: PciAddress


@dataclass(frozen=True, slots=True)
class PathSource:
    """A file, a directory, a block device or a character device of the host."""

    path: str


@dataclass(frozen=True, slots=True)
class VolumeSource:
    """A volume of a storage pool, which libvirt knows the path of."""

    pool: str
    volume: str


@dataclass(frozen=True, slots=True)
class InterfaceSource:
    """A network interface of the host."""

    name: str


@dataclass(frozen=True, slots=True)
class MdevSource:
    """A mediated device; the UUID in lower case."""

    uuid: str


@dataclass(frozen=True, slots=True)
class ScsiSource:
    """A SCSI host adapter, by the kernel's number."""

    host: int


@dataclass(frozen=True, slots=True)
class VhostScsiSource:
    """A vhost target of the kernel, by its world wide port name, such as ``naa.5001405…``."""

    wwpn: str


@dataclass(frozen=True, slots=True)
class UsbSource:
    """A USB device: by its place, or by what it is.

    Attributes:
        bus: Number of the bus; None where the domain does not say.
        device: Number on that bus; None likewise.
        vendor_id: Four hex digits, lower case; None likewise.
        product_id: Likewise.
    """

    bus: int | None
    device: int | None
    vendor_id: str | None
    product_id: str | None

    def is_at(self, other: UsbSource) -> bool:
        """Whether a USB device of the host is the one that is meant here."""
        if self.device is not None:
            return (self.bus, self.device) == (other.bus, other.device)
        return (self.vendor_id, self.product_id) == (other.vendor_id, other.product_id)


Source: TypeAlias = (
    PciSource
    | PathSource
    | VolumeSource
    | InterfaceSource
    | MdevSource
    | ScsiSource
    | VhostScsiSource
    | UsbSource
)


@dataclass(frozen=True, slots=True)
class GuestDevice:
    """Something of the host's that a domain uses.

    Attributes:
        kind: How it has it.
        via: For people, such as ``disk vda on /dev/nvme0n1p2``.
        source: Where it is on the host.
    """

    kind: GuestDeviceKind
    via: str
    source: Source


def parse_guest_devices(domain: Element) -> Sequence[GuestDevice]:
    """Read all of a ``<domain>``, the live one or the one for its next start, in its order.

    What lies on the network, in memory or on a socket is none of the host's devices.

    Raises:
        LibvirtFailedError: A number is none.
    """
    try:
        devices = [each for parse in _PARSERS for each in parse(domain)]
    except ValueError as error:
        name = domain.findtext("name")
        raise LibvirtFailedError(f"domain {name} has a device at no address") from error
    return tuple(dict.fromkeys(devices))


def _parse_disks(domain: Element) -> Iterator[GuestDevice]:
    """Read every image of a chain: a qcow2 file may have a block device below it."""
    for disk in domain.iterfind("devices/disk"):
        target = disk.find("target")
        name = f"disk {'' if target is None else target.get('dev', '')}".strip()
        for source in disk.iter("source"):
            image = source.getparent()
            if image is not None and image.tag in _IMAGES:
                yield from _parse_image(image, source, name)


def _parse_image(image: Element, source: Element, name: str) -> Iterator[GuestDevice]:
    path = source.get("dev") or source.get("file")
    pool, volume, address = source.get("pool"), source.get("volume"), source.find("address")
    if path:
        kind: GuestDeviceKind = "vdpa" if image.get("type") == "vhostvdpa" else "block_disk"
        yield GuestDevice(kind, f"{name} on {path}", PathSource(path))
    elif pool and volume:
        via = f"{name} on volume {volume} of pool {pool}"
        yield GuestDevice("block_disk", via, VolumeSource(pool, volume))
    elif image.get("type") == "nvme" and address is not None:
        yield GuestDevice("nvme_disk", name, PciSource(read_address(address)))


def _parse_hostdevs(domain: Element) -> Iterator[GuestDevice]:
    for hostdev in domain.iterfind("devices/hostdev"):
        source = hostdev.find("source")
        parse = _HOSTDEVS.get((hostdev.get("mode", "subsystem"), hostdev.get("type", "")))
        if source is not None and parse is not None:
            yield from parse(source)


def _parse_mdev(source: Element) -> Iterator[GuestDevice]:
    address = source.find("address")
    uuid = "" if address is None else address.get("uuid", "").lower()
    if uuid:
        yield GuestDevice("mdev", f"mdev {uuid}", MdevSource(uuid))


def _parse_scsi(source: Element) -> Iterator[GuestDevice]:
    """Read a logical unit behind an adapter; one of iSCSI lies on the network."""
    adapter = source.find("adapter")
    name = "" if adapter is None else adapter.get("name", "")
    if name.startswith("scsi_host"):
        number = int(name.removeprefix("scsi_host"))
        yield GuestDevice("scsi", f"SCSI device on {name}", ScsiSource(number))


def _parse_scsi_host(source: Element) -> Iterator[GuestDevice]:
    wwpn = source.get("wwpn")
    if wwpn:
        yield GuestDevice("scsi_host", f"SCSI target {wwpn}", VhostScsiSource(wwpn))


def _parse_usb(source: Element) -> Iterator[GuestDevice]:
    """Read a USB device; a running domain has the place of one that is named by what it is."""
    address, vendor, product = (source.find(tag) for tag in ("address", "vendor", "product"))
    bus = None if address is None else _number(address.get("bus"))
    device = None if address is None else _number(address.get("device"))
    vendor_id = None if vendor is None else _usb_id(vendor.get("id"))
    product_id = None if product is None else _usb_id(product.get("id"))
    place = f"{bus}:{device}" if device is not None else f"{vendor_id}:{product_id}"
    if device is not None or vendor_id is not None:
        usb = UsbSource(bus, device, vendor_id, product_id)
        yield GuestDevice("usb", f"USB device {place}", usb)


def _parse_capability_storage(source: Element) -> Iterator[GuestDevice]:
    path = source.findtext("block")
    if path:
        yield GuestDevice("block_disk", f"block device {path}", PathSource(path))


def _parse_capability_misc(source: Element) -> Iterator[GuestDevice]:
    path = source.findtext("char")
    if path:
        yield GuestDevice("char_device", f"character device {path}", PathSource(path))


def _parse_capability_net(source: Element) -> Iterator[GuestDevice]:
    name = source.findtext("interface")
    if name:
        yield GuestDevice("macvtap", f"interface {name}", InterfaceSource(name))


def _parse_interfaces(domain: Element) -> Iterator[GuestDevice]:
    """Read shares of an interface; a network that gives them out says which one in ``actual``."""
    for interface in domain.iterfind("devices/interface"):
        actual = interface.find("actual")
        chosen = interface if actual is None else actual
        source = chosen.find("source")
        name = "" if source is None else source.get("dev", "")
        if name and chosen.get("type") == "direct":
            yield GuestDevice("macvtap", f"macvtap interface on {name}", InterfaceSource(name))
        if name and chosen.get("type") == "vdpa":
            yield GuestDevice("vdpa", f"vDPA interface on {name}", PathSource(name))


def _parse_file_systems(domain: Element) -> Iterator[GuestDevice]:
    for source in domain.iterfind("devices/filesystem/source"):
        path = source.get("dir") or source.get("file") or source.get("dev")
        if path:
            yield GuestDevice("block_disk", f"file system on {path}", PathSource(path))


def _parse_character_devices(domain: Element) -> Iterator[GuestDevice]:
    for tag in _CHARACTER_DEVICES:
        for source in domain.iterfind(f"devices/{tag}[@type='dev']/source[@path]"):
            path = source.get("path", "")
            yield GuestDevice("char_device", f"{tag} on {path}", PathSource(path))


def _parse_inputs(domain: Element) -> Iterator[GuestDevice]:
    for source in domain.iterfind("devices/input/source"):
        path = source.get("dev") or source.get("evdev")
        if path:
            yield GuestDevice("char_device", f"input on {path}", PathSource(path))


def _parse_render_nodes(domain: Element) -> Iterator[GuestDevice]:
    """Read which GPUs render for the domain while they stay with their host driver."""
    for element in domain.iterfind("devices//*[@rendernode]"):
        path = element.get("rendernode", "")
        yield GuestDevice("char_device", f"rendering on {path}", PathSource(path))


def _number(text: str | None) -> int | None:
    """Read a number as libvirt does: decimal, hex after ``0x``, octal after ``0``."""
    if not text:
        return None
    is_octal = text.startswith("0") and text.isdecimal()
    return int(text, 8 if is_octal else 0)


def _usb_id(text: str | None) -> str | None:
    return f"{int(text, 16):04x}" if text else None


_HOSTDEVS: Final[dict[tuple[str, str], Callable[[Element], Iterator[GuestDevice]]]] = {
    ("subsystem", "mdev"): _parse_mdev,
    ("subsystem", "scsi"): _parse_scsi,
    ("subsystem", "scsi_host"): _parse_scsi_host,
    ("subsystem", "usb"): _parse_usb,
    ("capabilities", "storage"): _parse_capability_storage,
    ("capabilities", "misc"): _parse_capability_misc,
    ("capabilities", "net"): _parse_capability_net,
}
_PARSERS: Final[Sequence[Callable[[Element], Iterator[GuestDevice]]]] = (
    _parse_disks,
    _parse_hostdevs,
    _parse_interfaces,
    _parse_file_systems,
    _parse_character_devices,
    _parse_inputs,
    _parse_render_nodes,
)
