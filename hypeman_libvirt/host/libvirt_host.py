"""The port ``Host`` on libvirt."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeAlias

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import (
    DeviceError,
    LibvirtDeniedError,
    LibvirtUnavailableError,
)
from hypeman_libvirt.devices.model import Domain, HostUse, MetadataEntry, NodeDevice
from hypeman_libvirt.devices.ports import HoldersByAddress, HostChanges
from hypeman_libvirt.host.connection import Connection, Observe, ignore_call
from hypeman_libvirt.host.demo import DemoDomains, DemoNodeDevices, is_test_driver
from hypeman_libvirt.host.domains import Domains
from hypeman_libvirt.host.guest_slots import build_functions
from hypeman_libvirt.host.local_view import LocalView, is_local
from hypeman_libvirt.host.node_devices import NodeDevices
from hypeman_libvirt.host.uses import HostUses
from hypeman_libvirt.host.xml import parse_xml

OpenChanges: TypeAlias = Callable[[], AbstractContextManager[HostChanges]]
"""Opens what changes the host, and closes it again."""


class LibvirtHost:
    """A libvirt host over one shared connection for reads."""

    def __init__(
        self, connection: Connection, node_devices: NodeDevices, open_changes: OpenChanges
    ) -> None:
        """Take the connection, what lists node devices over it, and how to make changes."""
        self._connection = connection
        self._node_devices = node_devices
        self._domains = Domains(connection)
        self._open_changes = open_changes
        self._uuid: str | None = None
        local = LocalView() if is_local(connection.uri) else None
        self._uses = HostUses(node_devices.list_tree, local)

    def key(self) -> str:
        """Return the UUID in the capabilities, else the URI: test hosts have none."""
        if self._uuid is None:
            xml = self._connection.read("getCapabilities", lambda c: c.getCapabilities())
            self._uuid = parse_xml(xml).findtext("host/uuid") or self._connection.uri
        return self._uuid

    def ping(self) -> None:
        """Raise if libvirt does not answer."""
        self._node_devices.ping()

    def node_device(self, address: PciAddress) -> NodeDevice | None:
        """Look up the PCI function at an address."""
        return self._node_devices.find(address)

    def node_device_named(self, node_name: str) -> NodeDevice | None:
        """Look up a PCI function by libvirt's name."""
        return self._node_devices.find_named(node_name)

    def list_node_devices(self) -> Sequence[NodeDevice]:
        """List every PCI function, by address."""
        return self._node_devices.list_devices()

    def list_holders(self) -> HoldersByAddress:
        """Say which domains hold which address, running ones first."""
        return self._domains.list_holders()

    def list_uses(self, devices: Collection[NodeDevice]) -> Sequence[HostUse]:
        """Say what the host itself does with these devices."""
        return self._uses.list_uses(devices)

    def has_vfio(self) -> bool | None:
        """Read ``pciBackend``; a driver without domain capabilities does not say.

        Source: https://libvirt.org/formatdomaincaps.html
        """
        try:
            xml = self._connection.read(
                "getDomainCapabilities", lambda c: c.getDomainCapabilities()
            )
        except (LibvirtUnavailableError, LibvirtDeniedError):
            raise
        except DeviceError:
            return None
        backends = parse_xml(xml).find("devices/hostdev/enum[@name='pciBackend']")
        return None if backends is None else "vfio" in [each.text for each in backends]

    def find_domain(self, instance: str) -> Domain | None:
        """Look up a domain by UUID, name or instance id, in this order."""
        return self._domains.find(instance)

    def list_domains(self) -> Sequence[Domain]:
        """List all domains, active or not."""
        return self._domains.list_domains()

    def read_metadata(self, domain: Domain) -> Sequence[MetadataEntry]:
        """Return our entries in the domain's metadata."""
        return self._domains.read_metadata(domain)

    def hostdev_xml(self, addresses: Sequence[PciAddress]) -> str:
        """Return ``<hostdev>`` elements; several functions of one slot in a proposed slot."""
        return "".join(build_functions(addresses))

    def changes(self) -> AbstractContextManager[HostChanges]:
        """Open a connection of its own for changes, and close it again."""
        return self._open_changes()

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called, from any thread, after each change that libvirt announces.

        It must return at once and not call this host.
        """
        self._connection.subscribe(wake)

    def close(self) -> None:
        """Close the shared connection."""
        self._connection.close()


class LibvirtChanges:
    """The port ``HostChanges`` on libvirt."""

    def __init__(self, node_devices: NodeDevices, domains: Domains) -> None:
        """Change over the connection of these two."""
        self.bind = node_devices.bind
        self.unbind = node_devices.unbind
        self.attach = domains.attach
        self.detach = domains.detach
        self.write_metadata = domains.write_metadata


def open_host(uri: str, observe: Observe = ignore_call) -> LibvirtHost:
    """Return the host of a URI; libvirt is not asked before it is needed.

    Args:
        uri: https://libvirt.org/uri.html; the embedded host is ``demo_uri()``.
        observe: Is told of each call to libvirt.
    """
    connection = Connection(uri, observe)
    if is_test_driver(uri):
        return _open_demo(connection)

    @contextmanager
    def open_changes() -> Iterator[HostChanges]:
        own = Connection(uri, observe)
        try:
            yield LibvirtChanges(NodeDevices(own), Domains(own))
        finally:
            own.close()

    return LibvirtHost(connection, NodeDevices(connection), open_changes)


def _open_demo(connection: Connection) -> LibvirtHost:
    """Change over the shared connection, since the test driver's state is in its connection."""
    node_devices = DemoNodeDevices(connection)
    domains = DemoDomains(connection, node_devices)
    return LibvirtHost(
        connection, node_devices, lambda: nullcontext(LibvirtChanges(node_devices, domains))
    )
