"""The port ``Host`` on libvirt."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeAlias
from urllib.parse import urlsplit

import libvirt

from hypeman_libvirt.devices.address import HostDeviceId, PciAddress
from hypeman_libvirt.devices.domain import (
    Assignment,
    Domain,
    MetadataEntry,
    Usage,
)
from hypeman_libvirt.devices.errors import (
    DeviceError,
    LibvirtDeniedError,
    LibvirtUnavailableError,
)
from hypeman_libvirt.devices.host_identity import HostIdentity
from hypeman_libvirt.devices.node_device import (
    HostUse,
    MediatedDevice,
    NetworkLink,
    NodeDevice,
    list_slices,
    slice_of,
)
from hypeman_libvirt.devices.ports import (
    AssignmentsByDevice,
    HostChanges,
    HostView,
    RemovalWatch,
    RootHelper,
)
from hypeman_libvirt.devices.surroundings import GuestMachine, Hardware
from hypeman_libvirt.host.assignments import DomainReader, NewTrace, Records
from hypeman_libvirt.host.cache.assignment_index import AssignmentIndex
from hypeman_libvirt.host.cache.caches import Caches
from hypeman_libvirt.host.cache.domain_files import (
    DomainDirectories,
    DomainFiles,
    domain_directories,
)
from hypeman_libvirt.host.cache.domains import DomainCache
from hypeman_libvirt.host.cache.mdevs import MdevCache
from hypeman_libvirt.host.cache.node_devices import NodeDeviceCache, SysfsDrivers
from hypeman_libvirt.host.changes import LibvirtChanges
from hypeman_libvirt.host.connection import FOR_READS, Connection, Observe, ignore_call
from hypeman_libvirt.host.domain_lookup import DomainLookup
from hypeman_libvirt.host.domains import Domains
from hypeman_libvirt.host.identity import IdentityReader
from hypeman_libvirt.host.local_hardware import LocalHardware
from hypeman_libvirt.host.local_markings import LocalMarkings
from hypeman_libvirt.host.mdevs import MediatedDevices
from hypeman_libvirt.host.node_devices import NodeDevices, as_it_is
from hypeman_libvirt.host.removal import watch_removal
from hypeman_libvirt.host.resources import ResourceFacts
from hypeman_libvirt.host.storage_volumes import StorageVolumes
from hypeman_libvirt.host.test_driver import (
    TestDriverDomains,
    TestDriverNodeDevices,
    is_test_driver,
)
from hypeman_libvirt.host.test_driver_helper import TestDriverHelper
from hypeman_libvirt.host.test_driver_slices import TestDriverMdevs
from hypeman_libvirt.host.usage.guest_usage import GuestUsage
from hypeman_libvirt.host.usage.host_usage import HostUsage
from hypeman_libvirt.host.usage.local_host import LocalHost, is_local
from hypeman_libvirt.host.xml.document import parse_xml
from hypeman_libvirt.host.xml.domain import join_devices
from hypeman_libvirt.host.xml.guest_machine import parse_guest_machine
from hypeman_libvirt.host.xml.guest_slots import build_hostdevs

OpenChanges: TypeAlias = Callable[[], AbstractContextManager[HostChanges]]
"""Opens what changes the host, and closes it again."""


class LibvirtHost:
    """A libvirt host over one shared connection for reads.

    Attributes:
        resources: Reads what the host has as a whole.
        view: The same host for reads, metrics and events; it may answer from a cache that libvirt's
            events and the kernel invalidate. Whatever decides over a change asks the host itself.
        helper: What acts for root, of a host that is made up; None where a real one must be asked.
    """

    def __init__(
        self,
        connection: Connection,
        node_devices: NodeDevices,
        mdevs: MediatedDevices,
        domains: DomainLookup,
        uses: HostUsage,
        open_changes: OpenChanges,
        identity: IdentityReader,
        hardware: LocalHardware | None,
        view: HostView | None = None,
    ) -> None:
        """Take the connection, what reads over it, how to make changes, and its cached view."""
        self._connection = connection
        self._node_devices = node_devices
        self._domains = domains
        self._metadata = Domains(connection)
        self._mdevs = mdevs
        self._open_changes = open_changes
        self.view: HostView = view or self
        self._identity = identity
        self.helper: RootHelper | None = None
        self._hardware = hardware
        self._uses = uses
        self.resources = ResourceFacts(connection, node_devices)

    @property
    def uri(self) -> str:
        """Of the connection."""
        return self._connection.uri

    def version(self) -> str:
        """Return libvirt's version, such as ``9.0.0``."""
        number = self._connection.read("getLibVersion", lambda c: c.getLibVersion())
        return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"

    def count_losses(self) -> int:
        """Return how many times the shared connection was lost."""
        return self._connection.losses

    def announced(self) -> Mapping[str, bool]:
        """Say of domains and node devices whether libvirt announces their changes now."""
        return self._connection.announced()

    def unannounced(self) -> Mapping[str, DeviceError]:
        """Say why libvirt does not announce what its driver could; subscribe and read first."""
        return self._connection.unannounced()

    def key(self) -> str:
        """Return what registrations are keyed by."""
        return self._identity.read().key

    def identity(self) -> HostIdentity:
        """Say which host it is, as of the connection of this moment."""
        return self._identity.read()

    def ping(self) -> None:
        """Raise if libvirt does not answer."""
        self._node_devices.ping()

    def node_device(self, device: HostDeviceId) -> NodeDevice | None:
        """Look up a PCI function, or a mediated device that is active."""
        if isinstance(device, PciAddress):
            return self._node_devices.find(device)
        mdev = self._mdevs.find(device)
        if mdev is None or not mdev.active:
            return None
        parent = self._node_devices.find_named(mdev.parent)
        return parent and slice_of(parent, mdev)

    def node_device_named(self, node_name: str) -> NodeDevice | None:
        """Look up a PCI function by libvirt's name."""
        return self._node_devices.find_named(node_name)

    def list_node_devices(self) -> Sequence[NodeDevice]:
        """List every PCI function, by address."""
        return self._node_devices.list_devices()

    def list_hardware(self) -> Sequence[NodeDevice]:
        """List every PCI function, by address, to know cards by."""
        return self.list_node_devices()

    def list_assignments(self) -> AssignmentsByDevice:
        """Say which domains hold which address, running ones first."""
        return self._domains.read_snapshot().list_assignments()

    def list_mdevs(self) -> Sequence[MediatedDevice]:
        """List mediated devices, active or only defined, by UUID."""
        return self._mdevs.list_devices()

    def read_node_devices(self) -> Sequence[NodeDevice]:
        """Read every PCI function, by address."""
        return self._node_devices.list_devices()

    def read_mdevs(self) -> Sequence[MediatedDevice]:
        """Read every mediated device, active or only defined, by UUID."""
        return self._mdevs.list_devices()

    def read_assignments(self, devices: Collection[HostDeviceId]) -> AssignmentsByDevice:
        """Say which domains have any of these devices, running ones first."""
        return _select(self._domains.read_snapshot().list_assignments(), devices)

    def read_domain_assignments(self, domain: Domain) -> Sequence[Assignment]:
        """Say what this one domain has."""
        return self._domains.read_domain_assignments(domain)

    def watch_removal(self, domain: Domain) -> AbstractContextManager[RemovalWatch]:
        """Listen for unplugged devices of the domain."""
        return watch_removal(self._connection, domain)

    def read_usage(
        self, devices: Collection[HostDeviceId], endpoints: Collection[NodeDevice]
    ) -> Usage:
        """Say which domains have any of these devices, and what the host does with endpoints."""
        domains = self._domains.read_snapshot()
        untraced = domains.list_untraced() if endpoints else ()
        return Usage(
            assignments=_select(domains.list_assignments(), devices),
            uses=self._uses.list_uses(endpoints, untraced),
        )

    def read_link(self, device: NodeDevice) -> NetworkLink | None:
        """Return the network interface of a function."""
        kind = libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_NET
        return self._uses.read_link(device, lambda: self._node_devices.list_tree(kind))

    def list_host_uses(self, endpoints: Collection[NodeDevice]) -> Sequence[HostUse]:
        """Say what the host itself does with these endpoints."""
        return self._uses.list_uses(endpoints)

    def answers(self, node: NodeDevice) -> bool | None:
        """Whether a device answers on the bus; None of a remote host."""
        return None if self._hardware is None else self._hardware.answers(node)

    def read_hardware(self, node: NodeDevice) -> Hardware | None:
        """Read what the kernel shows of a function; None of a remote host."""
        return None if self._hardware is None else self._hardware.read(node)

    def read_guest_machine(self, domain: Domain) -> GuestMachine | None:
        """Read what the domain's definition, or else the running domain, says of its machine."""
        xml = self._domains.read_xml(domain)
        if xml is None:
            return None
        return parse_guest_machine(
            xml,
            host_address_bits=self._hardware.address_bits() if self._hardware else None,
            unprivileged=urlsplit(self.uri).path == "/session",
        )

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
        return self._metadata.read_metadata(domain)

    def hostdev_xml(
        self, devices: Sequence[HostDeviceId], unmanaged: Collection[HostDeviceId] = ()
    ) -> str:
        """Return a ``<hostdev>``, or ``<devices>`` of several; one card in a proposed slot."""
        return join_devices(build_hostdevs(devices, unmanaged=unmanaged))

    def changes(self) -> AbstractContextManager[HostChanges]:
        """Open a connection of its own for changes, and close it again."""
        return self._open_changes()

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called, from any thread, after each change that libvirt announces.

        It must return at once and not call this host.
        """
        self._connection.subscribe(lambda _: wake())

    def close(self) -> None:
        """Close the shared connection."""
        self._connection.close()


class CachedHost(LibvirtHost):
    """A libvirt host that answers from caches for as long as these are valid."""

    def __init__(
        self,
        connection: Connection,
        node_devices: NodeDevices,
        mdevs: MediatedDevices,
        domains: DomainLookup,
        uses: HostUsage,
        open_changes: OpenChanges,
        identity: IdentityReader,
        hardware: LocalHardware | None,
        caches: Caches,
    ) -> None:
        """Take the same as a LibvirtHost, and its caches."""
        super().__init__(
            connection, node_devices, mdevs, domains, uses, open_changes, identity, hardware
        )
        self._node_device_cache, self._mdev_cache, self._domain_cache = caches

    def node_device(self, device: HostDeviceId) -> NodeDevice | None:
        """Look up a PCI function, or a mediated device that is active."""
        if isinstance(device, PciAddress):
            return self._node_device_cache.find(device)
        slices = list_slices(self.list_node_devices(), self.list_mdevs())
        return next((each for each in slices if each.device == device), None)

    def list_mdevs(self) -> Sequence[MediatedDevice]:
        """List mediated devices, active or only defined, by UUID."""
        return self._mdev_cache.list_devices()

    def list_node_devices(self) -> Sequence[NodeDevice]:
        """List every PCI function, by address."""
        return self._node_device_cache.list_devices()

    def list_hardware(self) -> Sequence[NodeDevice]:
        """List every PCI function, by address, to know cards by."""
        return self._node_device_cache.list_hardware()

    def list_assignments(self) -> AssignmentsByDevice:
        """Say which domains hold which address, running ones first."""
        return self._domain_cache.list_assignments()

    def list_domains(self) -> Sequence[Domain]:
        """List all domains, active or not."""
        return self._domain_cache.list_domains()


def _select(
    assignments: AssignmentsByDevice, devices: Collection[HostDeviceId]
) -> AssignmentsByDevice:
    return {device: assignments[device] for device in devices if device in assignments}


def open_host(
    uri: str,
    observe: Observe = ignore_call,
    directories: DomainDirectories | None = None,
    local_host: LocalHost | None = None,
    before_waiting: Callable[[], None] = lambda: None,
) -> LibvirtHost:
    """Return the host of a URI; libvirt is not asked before it is needed.

    Args:
        uri: https://libvirt.org/uri.html; the embedded host is ``demo_uri()``.
        observe: Is called after each call to libvirt.
        directories: Where its libvirt stores domains, if that is not where a local one does.
        local_host: Shows what a local URI's host does, if that is not the one that we run on.
        before_waiting: Is called before reads that may wait; see NonBlocking.
    """
    connection = Connection(uri, observe, keepalive=FOR_READS, before_waiting=before_waiting)
    if is_test_driver(uri):
        return _open_demo(connection)
    here = (local_host or LocalHost()) if is_local(uri) else None
    complete = as_it_is if here is None else LocalMarkings(here.root).complete
    node_devices, reader = NodeDevices(connection, complete), DomainReader(connection)
    mdevs = MediatedDevices(connection)
    new_trace = _trace_on(connection, node_devices, here)
    local = domain_directories(uri, os.environ) if is_local(uri) else None
    caches = None
    if local is not None:
        caches = Caches(
            NodeDeviceCache(connection, node_devices, SysfsDrivers()),
            MdevCache(connection, mdevs),
            DomainCache(connection, reader, new_trace, DomainFiles(local.definitions).read),
        )
    lookup = DomainLookup(reader, _read_all(reader, directories or local), new_trace)
    uses = HostUsage(node_devices.list_tree, here)

    @contextmanager
    def open_changes() -> Iterator[HostChanges]:
        own = Connection(uri, observe)
        try:
            yield LibvirtChanges(NodeDevices(own), MediatedDevices(own), Domains(own), caches)
        finally:
            own.close()

    identity = IdentityReader(connection, here.root if here else None)
    hardware = LocalHardware(here.root) if here else None
    return _assemble(
        connection, node_devices, mdevs, lookup, uses, open_changes, identity, hardware, caches
    )


def _read_all(reader: DomainReader, directories: DomainDirectories | None) -> Callable[[], Records]:
    """Return what reads all domains: only those that changed, where files prove the others."""
    if directories is None:
        return reader.read_all
    definitions, states = DomainFiles(directories.definitions), DomainFiles(directories.states)
    return AssignmentIndex(reader, definitions, states).read


def _open_demo(connection: Connection) -> LibvirtHost:
    """Change over the shared connection, since the test driver's state is in its connection."""
    node_devices, reader = TestDriverNodeDevices(connection), DomainReader(connection)
    new_trace = _trace_on(connection, node_devices, None)
    domain_cache = DomainCache(connection, reader, new_trace, read_stamps=None)
    mdevs = TestDriverMdevs(connection, node_devices, node_devices.slices)
    caches = Caches(
        NodeDeviceCache(connection, node_devices, node_devices),
        MdevCache(connection, mdevs),
        domain_cache,
    )
    domains = TestDriverDomains(connection, node_devices)
    changes = LibvirtChanges(node_devices, mdevs, domains, caches)
    lookup = DomainLookup(reader, reader.read_all, new_trace)
    uses = HostUsage(node_devices.list_tree, None)
    identity = IdentityReader(connection, None)
    host = _assemble(
        connection,
        node_devices,
        mdevs,
        lookup,
        uses,
        lambda: nullcontext(changes),
        identity,
        None,
        caches,
    )
    host.helper = TestDriverHelper(
        node_devices.set_functions,
        node_devices.slices.set_type,
        node_devices.find,
        caches.node_devices.invalidate,
    )
    return host


def _trace_on(
    connection: Connection, node_devices: NodeDevices, here: LocalHost | None
) -> NewTrace:
    """Return what traces the devices of domains on this host."""
    volumes = StorageVolumes(connection)
    return GuestUsage(node_devices.list_tree, volumes.find_path, here).new_trace


def _assemble(
    connection: Connection,
    node_devices: NodeDevices,
    mdevs: MediatedDevices,
    domains: DomainLookup,
    uses: HostUsage,
    open_changes: OpenChanges,
    identity: IdentityReader,
    hardware: LocalHardware | None,
    caches: Caches | None,
) -> LibvirtHost:
    view: HostView | None = None
    if caches is not None:
        view = CachedHost(
            connection,
            node_devices,
            mdevs,
            domains,
            uses,
            open_changes,
            identity,
            hardware,
            caches,
        )
    return LibvirtHost(
        connection, node_devices, mdevs, domains, uses, open_changes, identity, hardware, view
    )
