"""libvirt's node device tree, as far as it says what lies on a PCI device."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lxml.etree import _Element as Element

from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.host.xml.document import parse_or_recover
from hypeman_libvirt.host.xml.guest_devices import UsbSource

_SPEED_UNKNOWN: Final = "4294967295"
"""The kernel's -1, which libvirt prints without its sign; virtio cards report it.

Source: include/uapi/linux/ethtool.h, SPEED_UNKNOWN.
"""

_UUID_LENGTH: Final = 36


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A node device of any kind.

    Attributes:
        name: libvirt's name.
        parent: Name of the node it hangs on; None at the root.
        path: Directory in sysfs; None where libvirt does not say.
        class_code: Of a PCI function, 24 bit; None for other kinds.
        block: Block device such as ``sda``; None for other kinds.
        interface: Network interface such as ``eth0``; None for other kinds.
        link: libvirt's word for the state of the interface's link; None where it does not say.
        link_speed: Of the interface, Mbit/s; None where libvirt does not say.
        paths: What it is called in ``/dev``, links of udev's included.
        scsi_host: Number of a SCSI host adapter; None for other kinds.
        usb: Place and ids of a USB device; None for other kinds.
        mdev: UUID of a mediated device, lower case; None for other kinds.

    Source: https://libvirt.org/formatnode.html
    """

    name: str
    parent: str | None = None
    path: str | None = None
    class_code: int | None = None
    block: str | None = None
    interface: str | None = None
    link: str | None = None
    link_speed: int | None = None
    paths: frozenset[str] = frozenset()
    scsi_host: int | None = None
    usb: UsbSource | None = None
    mdev: str | None = None


def parse_tree_node(xml: str) -> TreeNode:
    """Read what ``virNodeDeviceGetXMLDesc()`` returned.

    What is not well-formed is read as far as it goes: libvirt copies a card's vital product data
    and a disk's model into its XML, and a careless vendor must not hide the disk with the root.

    Raises:
        LibvirtFailedError: It is no XML at all.
    """
    device, _ = parse_or_recover(xml)
    block = device.findtext("capability[@type='storage']/block")
    class_code = device.findtext("capability[@type='pci']/class")
    link = device.find("capability[@type='net']/link")
    return TreeNode(
        name=device.findtext("name", ""),
        parent=device.findtext("parent"),
        path=device.findtext("path"),
        class_code=int(class_code, 16) if class_code else None,
        block=block.removeprefix("/dev/") if block else None,
        interface=device.findtext("capability[@type='net']/interface"),
        link=None if link is None else link.get("state"),
        link_speed=_read_speed(link),
        paths=_read_paths(device),
        scsi_host=_read_number(device, "capability[@type='scsi_host']/host"),
        usb=_read_usb(device),
        mdev=_read_mdev(device),
    )


def _read_paths(device: Element) -> frozenset[str]:
    """Read what lies in ``/dev``; for vDPA libvirt has an element of its own."""
    places = ("devnode", "capability[@type='vdpa']/chardev")
    return frozenset(each.text for place in places for each in device.iterfind(place) if each.text)


def _read_usb(device: Element) -> UsbSource | None:
    usb = device.find("capability[@type='usb_device']")
    if usb is None:
        return None
    vendor, product = (usb.find(tag) for tag in ("vendor", "product"))
    return UsbSource(
        _read_number(usb, "bus"), _read_number(usb, "device"), _read_id(vendor), _read_id(product)
    )


def _read_id(element: Element | None) -> str | None:
    return None if element is None else element.get("id", "").removeprefix("0x").lower()


def _read_mdev(device: Element) -> str | None:
    """Read the UUID; before 7.3 libvirt has it in the name only, after ``mdev_``."""
    mdev = device.find("capability[@type='mdev']")
    if mdev is None:
        return None
    in_name = device.findtext("name", "").removeprefix("mdev_").replace("_", "-")[:_UUID_LENGTH]
    return (mdev.findtext("uuid") or in_name).lower()


def _read_number(element: Element, path: str) -> int | None:
    text = element.findtext(path) or ""
    return int(text) if text.isascii() and text.isdecimal() else None


def _read_speed(link: Element | None) -> int | None:
    speed = "" if link is None else link.get("speed") or ""
    known = speed.isascii() and speed.isdecimal() and speed != _SPEED_UNKNOWN
    return int(speed) if known else None


def list_below(tree: Sequence[TreeNode], device: NodeDevice) -> Sequence[TreeNode]:
    """Return the device's own node and all that hang on it, however deep.

    By ``<parent>``, and by ``<path>`` too: libvirt hangs a disk on ``computer`` when it lists
    none of the buses in between.
    """
    return group_below(tree, [device])[device.node_name]


def group_below(
    tree: Sequence[TreeNode], devices: Collection[NodeDevice]
) -> Mapping[str, Sequence[TreeNode]]:
    """Return what ``list_below`` returns of each device, by its name, in one pass over the tree."""
    parents = {node.name: node.parent for node in tree}
    by_path = {device.path: device.node_name for device in devices if device.path is not None}
    below: dict[str, list[TreeNode]] = {device.node_name: [] for device in devices}
    for node in tree:
        above = {by_path[each] for each in _directories(node.path) if each in by_path}
        for name in above | (_ancestors(node.name, parents) & below.keys()):
            below[name].append(node)
    return below


def is_inside(path: str | None, directory: str | None) -> bool:
    """Whether a path is the directory or lies in it."""
    return path is not None and directory is not None and f"{path}/".startswith(f"{directory}/")


def _directories(path: str | None) -> Iterator[str]:
    """Return the path and every directory that it lies in."""
    while path:
        yield path
        path = path.rpartition("/")[0]


def _ancestors(name: str, parents: Mapping[str, str | None]) -> set[str]:
    """Return the name and those above it, by parents; where these run in a circle, once."""
    seen: set[str] = set()
    current: str | None = name
    while current is not None and current not in seen:
        seen.add(current)
        current = parents.get(current)
    return seen
