"""What the host lives on: the disks, network interfaces and console it must not lose."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from hypeman_libvirt.devices.node_device import HostUse, NetworkLink, NodeDevice
from hypeman_libvirt.devices.rules import is_on_vfio
from hypeman_libvirt.host.usage.console import list_console_uses
from hypeman_libvirt.host.usage.guest_usage import UntracedDevice, may_carry
from hypeman_libvirt.host.usage.local_host import LocalHost, LocalHostSnapshot
from hypeman_libvirt.host.xml.node_device import is_of_class
from hypeman_libvirt.host.xml.node_tree import TreeNode, group_below, is_inside, list_below

_LINK_DOWN = frozenset({"down", "lowerlayerdown", "notpresent"})
_IFF_UP = 1
"""Source: netdevice(7)."""
_NETWORK_CLASS = "02"
_VGA_CLASS = "0300"
_NVME_CLASS = "0108"
_NVME_SUBSYSTEMS = "/sys/devices/virtual/nvme-subsystem"


class HostUsage:
    """Says what the host itself does with its PCI devices.

    On the libvirt host the kernel is asked. From elsewhere libvirt's node device tree shows which
    disks and interfaces a device has, but not what for: these are uses that are not known to be.
    """

    def __init__(
        self, list_tree: Callable[[], Sequence[TreeNode]], local: LocalHost | None
    ) -> None:
        """Take who lists libvirt's node devices of all kinds, and the local view if there is one.

        Args:
            list_tree: Called once for each question.
            local: None for a remote host, or for one that is made up.
        """
        self._list_tree = list_tree
        self._local = local

    def list_uses(
        self, devices: Collection[NodeDevice], untraced: Collection[UntracedDevice] = ()
    ) -> Sequence[HostUse]:
        """Say what the host does with these devices; with one on vfio it does nothing.

        Args:
            devices: Asked about.
            untraced: What running domains use without it being known where that lies: it may be
                on any device of that kind.

        Raises: whatever ``list_tree`` raises.
        """
        asked = [device for device in devices if not is_on_vfio(device)]
        if not asked:
            return ()
        tree = self._list_tree()
        here = None if self._local is None else self._local.read()
        below = group_below(tree, asked)
        return [
            use
            for device in asked
            for use in (
                *_list_uses(device, below[device.node_name], tree, here),
                *_list_untraced(device, here, untraced),
            )
        ]

    def read_link(
        self, device: NodeDevice, list_interfaces: Callable[[], Sequence[TreeNode]]
    ) -> NetworkLink | None:
        """Return the network interface of a function, of several whether any is up.

        Args:
            device: Asked about.
            list_interfaces: Lists libvirt's node devices that are network interfaces.

        Source: the kernel's net/core/net-sysfs.c, flags; libvirt asks for IFF_UP, too.
        """
        names: Sequence[str] = ()
        if self._local is not None and device.path is not None:
            names = self._local.files.names(f"{device.path}/net")
        if self._local is not None and names:
            flags = [self._local.files.text(f"{device.path}/net/{each}/flags") for each in names]
            return NetworkLink(names[0], any(int(each or "0", 16) & _IFF_UP for each in flags))
        below = [node for node in list_below(list_interfaces(), device) if node.interface]
        up = any(node.link not in _LINK_DOWN for node in below)
        return NetworkLink(below[0].interface or "", up) if below else None


def _list_uses(
    device: NodeDevice,
    below: Sequence[TreeNode],
    tree: Sequence[TreeNode],
    here: LocalHostSnapshot | None,
) -> Sequence[HostUse]:
    if here is None or device.path is None or not here.has(device):
        return [
            *_guess_storage(device, below, tree),
            *_guess_network(device, below),
            *_guess_console(device, tree),
        ]
    return [
        *_list_storage_uses(device, below, tree, here),
        *_list_network_uses(device, below, here),
        *list_console_uses(here.files, device.address, device.path),
    ]


def _list_untraced(
    device: NodeDevice, here: LocalHostSnapshot | None, untraced: Collection[UntracedDevice]
) -> Sequence[HostUse]:
    """Say what guests may have on it. Where mounts are not seen, no disk is taken to be idle."""
    storage = None if here is None or not here.has(device) else here.storage
    has_disks = storage is not None and storage.has_disks(device.path or "")
    return [
        HostUse(
            device.address,
            f"{each.device.via} of domain {each.domain} cannot be traced, and may lie on it",
            known=False,
        )
        for each in untraced
        if may_carry(device, each.device, has_disks=has_disks)
    ]


def _list_storage_uses(
    device: NodeDevice, below: Sequence[TreeNode], tree: Sequence[TreeNode], here: LocalHostSnapshot
) -> Sequence[HostUse]:
    if here.storage is None or device.path is None:
        return _guess_storage(device, below, tree)
    return here.storage.list_uses(device.address, device.path)


def _list_network_uses(
    device: NodeDevice, below: Sequence[TreeNode], here: LocalHostSnapshot
) -> Sequence[HostUse]:
    """Say what the interfaces are for; guess of those that are in another network namespace."""
    if here.network is None or device.path is None:
        return _guess_network(device, below)
    seen = here.network.list_names(device.path)
    listed = [node for node in below if node.interface]
    if not (seen or listed or device.driver is None):
        return _guess_nothing_seen(device)
    hidden = [node for node in listed if node.interface not in seen]
    return [
        *here.network.list_uses(device.address, device.path),
        *_guess_network(device, hidden),
    ]


def _guess_nothing_seen(device: NodeDevice) -> Sequence[HostUse]:
    """Say of a network device that its interfaces may be in another network namespace."""
    if not is_of_class(device.class_code, _NETWORK_CLASS):
        return []
    what = "no network interface of it can be seen from here, it may be in another namespace"
    return [HostUse(device.address, what, known=False)]


def _guess_storage(
    device: NodeDevice, below: Sequence[TreeNode], tree: Sequence[TreeNode]
) -> Sequence[HostUse]:
    blocks = [node.block for node in below if node.block]
    whats = [f"the block device {name} lies on it" for name in blocks]
    if not whats and device.driver is not None and _has_nvme(device, below):
        whats = [
            f"it is an NVMe controller, and {node.block} may lie on it"
            for node in tree
            if node.block and is_inside(node.path, _NVME_SUBSYSTEMS)
        ]
    return [
        HostUse(device.address, f"{what}, and its mounts cannot be seen from here", known=False)
        for what in whats
    ]


def _guess_network(device: NodeDevice, nodes: Sequence[TreeNode]) -> Sequence[HostUse]:
    return [
        HostUse(
            device.address,
            f"the link of {node.interface} is not down, and its addresses cannot be seen from here",
            known=False,
        )
        for node in nodes
        if node.interface and node.link not in _LINK_DOWN
    ]


def _guess_console(device: NodeDevice, tree: Sequence[TreeNode]) -> Sequence[HostUse]:
    """Say of the only VGA device that it may be the console; boot_vga is in sysfs alone."""
    if not is_of_class(device.class_code, _VGA_CLASS):
        return []
    vgas = [node for node in tree if is_of_class(node.class_code, _VGA_CLASS)]
    if len(vgas) != 1:
        return []
    what = "it is the only VGA device of the host, and may be its console"
    return [HostUse(device.address, what, known=False)]


def _has_nvme(device: NodeDevice, below: Sequence[TreeNode]) -> bool:
    """Whether it is or has an NVMe controller: one behind Intel VMD lies below another device.

    With multipath libvirt hangs the disks of all controllers on ``computer``.
    """
    classes = [device.class_code, *(node.class_code for node in below)]
    return any(is_of_class(code, _NVME_CLASS) for code in classes)
