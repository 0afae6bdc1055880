"""What domains refer to, traced through libvirt's node devices alone, as for a remote host."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.host.usage.sysfs import list_endpoints
from hypeman_libvirt.host.xml.guest_devices import (
    InterfaceSource,
    MdevSource,
    PathSource,
    ScsiSource,
    Source,
    UsbSource,
)
from hypeman_libvirt.host.xml.node_tree import TreeNode


class TreeReferences:
    """Traces references as far as libvirt lists what they name.

    It lists whole disks and their links in ``/dev``, and nothing that the kernel makes of them.
    """

    def __init__(self, list_tree: Callable[[], Sequence[TreeNode]]) -> None:
        """Take who lists libvirt's node devices of all kinds; called when one may say something."""
        self._list_tree = list_tree
        self._tree: Sequence[TreeNode] | None = None

    def trace(self, source: Source) -> frozenset[PciAddress] | None:
        """Return the functions that it lies on; None when libvirt does not show any."""
        if isinstance(source, PathSource) and not source.path.startswith("/dev/"):
            return None
        if self._tree is None:
            self._tree = self._list_tree()
        endpoints = [list_endpoints(node.path or "") for node in self._tree if _is_of(node, source)]
        return frozenset[PciAddress]().union(*endpoints) or None


def _is_of(node: TreeNode, source: Source) -> bool:
    match source:
        case PathSource(path):
            return path in node.paths or _is_on_disk(path, node.block)
        case InterfaceSource(name):
            return node.interface == name
        case MdevSource(uuid):
            return node.mdev == uuid
        case ScsiSource(number):
            return node.scsi_host == number
        case UsbSource():
            return node.usb is not None and source.is_at(node.usb)
        case _:
            return False


def _is_on_disk(path: str, disk: str | None) -> bool:
    """Whether a path is that of a disk or of a partition of it, by the kernel's names.

    Source: the kernel's block/partitions/core.c: ``p`` comes after a name that ends in a digit.
    """
    if disk is None:
        return False
    stem = f"/dev/{disk}p" if disk[-1:].isdigit() else f"/dev/{disk}"
    is_partition = path.startswith(stem) and path.removeprefix(stem).isdecimal()
    return is_partition or path == f"/dev/{disk}"
