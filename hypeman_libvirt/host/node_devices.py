"""PCI functions of the host: list, look up, give to vfio-pci and back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Final, TypeAlias

import libvirt

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import (
    DeviceNotFoundError,
    LibvirtDeniedError,
    LibvirtFailedError,
    VfioUnavailableError,
)
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.host.connection import Connection
from hypeman_libvirt.host.errors import (
    FAILED,
    READING,
    Meanings,
    is_gone,
    is_lost,
    is_unexplained,
    translate,
)
from hypeman_libvirt.host.log_once import LogOnce
from hypeman_libvirt.host.topology import topology_by_parents
from hypeman_libvirt.host.xml.node_device import parse_node_device
from hypeman_libvirt.host.xml.node_tree import TreeNode, parse_tree_node

_log = logging.getLogger(__name__)

Described: TypeAlias = "tuple[str, str | libvirt.libvirtError]"
"""Name of a node device, and its XML or why it cannot be had."""

_REMEMBERED: Final = 512
"""Texts that are not parsed again; a function on two drivers in turn has two."""
_TO_VFIO: Final = "vfio"
"""The only driver name that every libvirt takes; newer ones give other text to modprobe."""
_MEANINGS: Final[Meanings] = {
    libvirt.VIR_ERR_NO_DOMAIN: FAILED,
    libvirt.VIR_ERR_DEVICE_MISSING: FAILED,
}
"""No domain is asked for here."""
_BIND_MEANINGS: Final[Meanings] = {
    **_MEANINGS,
    libvirt.VIR_ERR_INTERNAL_ERROR: (
        VfioUnavailableError,
        "vfio-pci does not take the device; see dmesg, and lsmod for vfio_pci",
    ),
}


Complete: TypeAlias = Callable[[NodeDevice], NodeDevice]
"""Adds to a node device what is known of it from elsewhere."""


def as_it_is(node: NodeDevice) -> NodeDevice:
    """Add nothing."""
    return node


class NodeDevices:
    """libvirt's node devices over one connection."""

    def __init__(self, connection: Connection, complete: Complete = as_it_is) -> None:
        """Ask over this connection, and let ``complete`` add what libvirt does not say."""
        self._connection = connection
        self._complete = complete
        self._once = LogOnce(_log)
        self._parse_once = lru_cache(_REMEMBERED)(
            partial(parse_node_device, on_damage=self._warn_of_damage)
        )

    def find(self, address: PciAddress) -> NodeDevice | None:
        """Look up by address: by the name that it has on most hosts, else in the whole list."""
        device = self.find_named(address.node_device_name)
        if device is not None and device.address == address:
            return device
        return next((each for each in self.list_devices() if each.address == address), None)

    def find_named(self, node_name: str) -> NodeDevice | None:
        """Look up by libvirt's name."""
        if not node_name.isascii() or "\0" in node_name:
            return None
        xml = self._connection.read("nodeDeviceLookupByName", lambda c: _describe(c, node_name))
        return None if xml is None else self._parse(xml)

    def list_devices(self) -> Sequence[NodeDevice]:
        """List all, by address.

        One that cannot be read is left out and named in the log, for it must not hide all others.
        Whoever asks for it by its address gets the error.

        Raises:
            DeviceError: Not one can be read.
        """
        described = self._describe_all(libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_PCI_DEV)
        _demand_one(described)
        nodes = [self._read_listed(name, xml) for name, xml in described]
        return sorted((each for each in nodes if each is not None), key=lambda d: d.address)

    def list_tree(self, kinds: int = 0) -> Sequence[TreeNode]:
        """List node devices of every kind, or of those that libvirt's flags name.

        Raises:
            DeviceError: One cannot be read: it may be what the host lives on.
        """
        return [parse_tree_node(_demand(xml)) for _, xml in self._describe_all(kinds)]

    def ping(self) -> None:
        """Raise if libvirt's node devices cannot be counted.

        With daemons for each driver the one for node devices may be gone while the connection
        itself is well.
        """
        self._connection.read("numOfDevices", lambda c: c.numOfDevices(None, 0))

    def bind(self, address: PciAddress) -> None:
        """Give the device to vfio-pci."""
        name = self.name_of(address)
        self._connection.write(
            "detachFlags",
            lambda c: c.nodeDeviceLookupByName(name).detachFlags(_TO_VFIO, 0),
            _BIND_MEANINGS,
        )

    def unbind(self, address: PciAddress) -> None:
        """Give the device back to its host driver; one that is there already is probed again."""
        name = self.name_of(address)
        self._connection.write(
            "reAttach", lambda c: c.nodeDeviceLookupByName(name).reAttach(), _MEANINGS
        )

    def _parse(self, xml: str) -> NodeDevice | None:
        node = self._parse_once(xml)
        if node is None:
            return None
        if node.topology is None:
            node = replace(node, topology=self._read_topology(node))
        return self._complete(node)

    def _read_topology(self, node: NodeDevice) -> str | None:
        """Read the chain of bridges; None where one of them cannot be read."""
        try:
            return topology_by_parents(node, self._find_parent)
        except (LibvirtDeniedError, LibvirtFailedError):
            return None

    def _find_parent(self, node_name: str) -> NodeDevice | None:
        xml = self._connection.read("nodeDeviceLookupByName", lambda c: _describe(c, node_name))
        return None if xml is None else self._parse_once(xml)

    def _read_listed(self, name: str, xml: str | libvirt.libvirtError) -> NodeDevice | None:
        try:
            device = self._parse(_text_of(xml))
        except LibvirtFailedError as error:
            self._once.warn(name, "node device %s cannot be read, and is left out: %s", name, error)
            return None
        self._once.is_well(name)
        return device

    def _warn_of_damage(self, name: str, damage: str) -> None:
        message = "the vital product data of node device %s are no XML, and are left out: %s"
        self._once.warn(f"VPD of {name}", message, name, damage)

    def name_of(self, address: PciAddress) -> str:
        """Return libvirt's name of the function at an address.

        Raises:
            DeviceNotFoundError: There is none.
        """
        device = self.find(address)
        if device is None:
            raise DeviceNotFoundError(
                f"no PCI device {address} on this host; GET /devices/available lists them"
            )
        return device.node_name

    def _describe_all(self, kinds: int) -> Sequence[Described]:
        return self._connection.read("listAllDevices", lambda c: list(_list_described(c, kinds)))


def _describe(connection: libvirt.virConnect, name: str) -> str | None:
    try:
        return connection.nodeDeviceLookupByName(name).XMLDesc(0)
    except libvirt.libvirtError as error:
        if is_gone(error):
            return None
        raise


def _list_described(connection: libvirt.virConnect, kinds: int) -> Iterator[Described]:
    for device in connection.listAllDevices(kinds):
        try:
            yield device.name(), _read_xml(device)
        except libvirt.libvirtError as error:
            if is_lost(error):
                raise
            if not is_gone(error):
                yield device.name(), error


def _read_xml(device: libvirt.virNodeDevice) -> str:
    """Read the XML; once more where libvirt failed without saying why."""
    try:
        return device.XMLDesc(0)
    except libvirt.libvirtError as error:
        if not is_unexplained(error):
            raise
    return device.XMLDesc(0)


def _text_of(xml: str | libvirt.libvirtError) -> str:
    if isinstance(xml, libvirt.libvirtError):
        raise LibvirtFailedError(f"libvirt says: {xml.get_error_message()}")
    return xml


def _demand(xml: str | libvirt.libvirtError) -> str:
    if isinstance(xml, libvirt.libvirtError):
        raise translate(xml, "XMLDesc", READING) from xml
    return xml


def _demand_one(described: Sequence[Described]) -> None:
    """Raise if not a single node device can be read: then it is no fault of one."""
    if described and all(isinstance(xml, libvirt.libvirtError) for _, xml in described):
        _demand(described[0][1])
