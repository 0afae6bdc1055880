"""An in-memory stand-in for the module ``libvirt``, for machines that have none.

``open("vz:///NAME")`` reaches the `FakeHost` of that name; the other names and numbers are the
binding's own. Like the C library it keeps state of the process: the hosts that exist, the event
loop and the error handler.
"""

# ruff: noqa: A001, A002, ARG001, ARG002, N801, N802, N803, SLF001 - the binding's own names

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any, Final
from uuid import UUID

from lxml import etree
from lxml.etree import _Element as Element

from tests.fake_errors import (
    FROM_DOMAIN,
    FROM_NODEDEV,
    FROM_RPC,
    INTERNAL,
    INVALID_ARG,
    NO_DOMAIN,
    NO_NODE_DEVICE,
    NO_SUPPORT,
    OPERATION_INVALID,
    SYSTEM,
    failure,
    libvirtError,
)
from tests.fake_faults import Hang
from tests.fake_host import RUNNING, SHUTOFF, FakeHost, Guest
from tests.fake_machine import Mdev, Node, Pci, Pool
from tests.fake_xml import parse, show, size_of

__all__ = ["FakeHost", "Hang", "libvirtError"]

VIR_CONNECT_LIST_DOMAINS_ACTIVE: Final = 1
VIR_CONNECT_LIST_DOMAINS_PERSISTENT: Final = 4
VIR_CONNECT_LIST_DOMAINS_TRANSIENT: Final = 8
VIR_CONNECT_LIST_NODE_DEVICES_CAP_SYSTEM: Final = 1
VIR_CONNECT_LIST_NODE_DEVICES_CAP_PCI_DEV: Final = 2
VIR_CONNECT_LIST_NODE_DEVICES_CAP_NET: Final = 16
VIR_CONNECT_LIST_NODE_DEVICES_CAP_STORAGE: Final = 256
VIR_CONNECT_LIST_NODE_DEVICES_CAP_MDEV: Final = 16384
VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE: Final = 2
VIR_DOMAIN_AFFECT_CURRENT: Final = 0
VIR_DOMAIN_AFFECT_LIVE: Final = 1
VIR_DOMAIN_AFFECT_CONFIG: Final = 2
VIR_DOMAIN_XML_SECURE: Final = 1
VIR_DOMAIN_XML_INACTIVE: Final = 2
VIR_DOMAIN_METADATA_ELEMENT: Final = 2
VIR_DOMAIN_NOSTATE: Final = 0
VIR_DOMAIN_RUNNING: Final = RUNNING
VIR_DOMAIN_BLOCKED: Final = 2
VIR_DOMAIN_PAUSED: Final = 3
VIR_DOMAIN_SHUTDOWN: Final = 4
VIR_DOMAIN_SHUTOFF: Final = SHUTOFF
VIR_DOMAIN_CRASHED: Final = 6
VIR_DOMAIN_PMSUSPENDED: Final = 7
VIR_DOMAIN_EVENT_ID_LIFECYCLE: Final = 0
VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED: Final = 15
VIR_DOMAIN_EVENT_ID_DEVICE_ADDED: Final = 19
VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED: Final = 22
VIR_DOMAIN_EVENT_ID_METADATA_CHANGE: Final = 23
VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE: Final = 0
VIR_NODE_DEVICE_EVENT_ID_UPDATE: Final = 1
VIR_NODE_DEVICE_EVENT_CREATED: Final = 0
VIR_NODE_DEVICE_EVENT_DELETED: Final = 1
VIR_ERR_INTERNAL_ERROR: Final = INTERNAL
VIR_ERR_NO_SUPPORT: Final = NO_SUPPORT
VIR_ERR_NO_CONNECT: Final = 5
VIR_ERR_INVALID_CONN: Final = 6
VIR_ERR_INVALID_ARG: Final = INVALID_ARG
VIR_ERR_OPERATION_DENIED: Final = 29
VIR_ERR_XML_ERROR: Final = 27
VIR_ERR_SYSTEM_ERROR: Final = SYSTEM
VIR_ERR_RPC: Final = 39
VIR_ERR_NO_DOMAIN: Final = NO_DOMAIN
VIR_ERR_AUTH_FAILED: Final = 45
VIR_ERR_NO_NETWORK: Final = 43
VIR_ERR_NO_STORAGE_POOL: Final = 49
VIR_ERR_NO_STORAGE_VOL: Final = 50
VIR_ERR_NO_NODE_DEVICE: Final = NO_NODE_DEVICE
VIR_ERR_OPERATION_INVALID: Final = OPERATION_INVALID
VIR_ERR_CONFIG_UNSUPPORTED: Final = 67
VIR_ERR_OPERATION_TIMEOUT: Final = 68
VIR_ERR_ARGUMENT_UNSUPPORTED: Final = 74
VIR_ERR_AUTH_CANCELLED: Final = 79
VIR_ERR_NO_DOMAIN_METADATA: Final = 80
VIR_ERR_OPERATION_UNSUPPORTED: Final = 84
VIR_ERR_ACCESS_DENIED: Final = 88
VIR_ERR_AUTH_UNAVAILABLE: Final = 94
VIR_ERR_DEVICE_MISSING: Final = 99
VIR_FROM_NONE: Final = 0
VIR_FROM_DOMAIN: Final = FROM_DOMAIN
VIR_FROM_RPC: Final = FROM_RPC
VIR_FROM_QEMU: Final = 10

_CALLS_AT_ONCE: Final = 5  # libvirtd's max_client_requests
_HOSTS: Final[dict[str, FakeHost]] = {}
_EVENTS: Final[queue.SimpleQueue[Callable[[], object]]] = queue.SimpleQueue()
_LOOP: Final = threading.Event()
_LISTED: Final = {
    "system": VIR_CONNECT_LIST_NODE_DEVICES_CAP_SYSTEM,
    "pci": VIR_CONNECT_LIST_NODE_DEVICES_CAP_PCI_DEV,
    "net": VIR_CONNECT_LIST_NODE_DEVICES_CAP_NET,
    "storage": VIR_CONNECT_LIST_NODE_DEVICES_CAP_STORAGE,
    "mdev": VIR_CONNECT_LIST_NODE_DEVICES_CAP_MDEV,
}

Callback = Callable[..., object]


def serve(host: FakeHost) -> None:
    """Let ``open(host.uri)`` reach the host."""
    _HOSTS[host.uri] = host


def forget(host: FakeHost) -> None:
    """End the host: its connections break and its URI leads nowhere."""
    host.down()
    _HOSTS.pop(host.uri, None)


def open(name: str | None = None) -> virConnect:
    """Connect to the host of that URI."""
    host = _HOSTS.get(name or "")
    if host is None:
        raise failure(SYSTEM, FROM_RPC, f"unable to connect to server at {name!r}")
    return virConnect(host)


def getVersion() -> int:
    """Return the version that the fake was measured on."""
    return 9_000_000


def registerErrorHandler(f: Callback | None, ctx: object) -> int:
    """Accept a handler; the fake prints nothing anyway."""
    return 0


def virEventRegisterDefaultImpl() -> int:
    """Allow events from now on."""
    _LOOP.set()
    return 0


def virEventRunDefaultImpl() -> int:
    """Wait for one event and run its callback, in the thread that called."""
    callback = _EVENTS.get()
    with suppress(libvirtError):
        callback()
    return 0


class virConnect:
    """A connection; dead once dropped, as libvirt's are."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host
        self._state = "open"
        self._broken_calls = 0
        self._unnoticed = False
        self._slots = threading.BoundedSemaphore(_CALLS_AT_ONCE)
        self._callbacks: dict[int, tuple[str, virDomain | None, Callback, object]] = {}
        self._next_callback = 0
        self._on_close: tuple[Callback, object] | None = None
        host.join(self._drop)
        host.listeners.append(self._deliver)

    @contextmanager
    def _call(self, name: str) -> Iterator[FakeHost]:
        self._check_alive(name)
        with self._slots:
            self._host.enter(name)
            self._check_alive(name)
            yield self._host
            if self._host.loses_reply(name):
                self._host.drop_connections()
                self._check_alive(name)

    def _check_alive(self, name: str) -> None:
        if self._state == "closed":
            raise failure(VIR_ERR_INVALID_CONN, FROM_DOMAIN, f"invalid connection in {name}")
        if self._state == "broken":
            self._broken_calls += 1
            code = SYSTEM if self._broken_calls == 1 else INTERNAL
            raise failure(code, FROM_RPC, "Cannot recv data: Connection reset by peer")

    def _drop(self, unnoticed: bool) -> None:
        self._state, self._unnoticed = "broken", unnoticed
        self._forget_events()
        if self._on_close is not None and not unnoticed:
            callback, opaque = self._on_close
            _EVENTS.put(lambda: callback(self, 1, opaque))

    def _forget_events(self) -> None:
        with self._host.lock:
            if self._deliver in self._host.listeners:
                self._host.listeners.remove(self._deliver)

    def _deliver(self, kind: str, what: tuple[object, ...]) -> None:
        for registered, dom, callback, opaque in list(self._callbacks.values()):
            if registered == kind and (dom is None or dom.UUIDString() == what[0]):
                about = self._about(kind, what)
                _EVENTS.put(lambda c=callback, a=about, o=opaque: c(self, *a, o))  # type: ignore[misc]

    def _about(self, kind: str, what: tuple[object, ...]) -> tuple[object, ...]:
        if kind == "node":
            name = str(what[0])
            return (virNodeDevice(self, self._host.nodes[name]), *what[1:], 0)
        guest = self._host.guests.get(str(what[0]))
        gone = Guest(str(what[0]), self._host.names[str(what[0])], None)
        return (virDomain(self, guest or gone), *what[1:])

    def close(self) -> int:
        """Close, unless a close callback still holds the connection, as in libvirt."""
        if self._on_close is not None:
            return 1
        if self._state == "closed":
            raise failure(VIR_ERR_INVALID_CONN, FROM_DOMAIN, "invalid connection pointer")
        self._state = "closed"
        self._forget_events()
        self._host.leave(self._drop)
        return 0

    def isAlive(self) -> int:
        """Say 1 also on a connection that broke unnoticed."""
        return int(self._state == "open" or self._unnoticed)

    def setKeepAlive(self, interval: int, count: int) -> int:
        with self._call("setKeepAlive"):
            return 0

    def registerCloseCallback(self, cb: Callback, opaque: object) -> int:
        with self._call("registerCloseCallback"):
            self._on_close = (cb, opaque)
            return 0

    def unregisterCloseCallback(self) -> int:
        if self._on_close is None:
            raise failure(INVALID_ARG, FROM_DOMAIN, "no close callback is registered")
        self._on_close = None
        return 0

    def getURI(self) -> str:
        with self._call("getURI") as host:
            return host.uri

    def getLibVersion(self) -> int:
        with self._call("getLibVersion") as host:
            return host.libvirt

    def getCapabilities(self) -> str:
        with self._call("getCapabilities") as host:
            domains = "".join(f"<domain type='{each}'/>" for each in host.hypervisors)
            return (
                f"<capabilities><host><uuid>{host.uuid}</uuid><cpu><arch>{host.arch}</arch></cpu>"
                f"</host><guest><os_type>hvm</os_type><arch name='{host.arch}'>"
                f"{domains}</arch></guest></capabilities>"
            )

    def getSysinfo(self, flags: int = 0) -> str:
        with self._call("getSysinfo") as host:
            if host.firmware == "unreadable":
                raise failure(VIR_ERR_CONFIG_UNSUPPORTED, VIR_FROM_QEMU, "Host SMBIOS information")
            uuid = {"uuid": host.uuid.upper(), "empty": "Not Settable"}[host.firmware]
            entry = f"<entry name='uuid'>{uuid}</entry>"
            return f"<sysinfo type='smbios'><system>{entry}</system></sysinfo>"

    def getInfo(self) -> list[Any]:
        """Return model, MiB of memory, CPUs, MHz, NUMA nodes, sockets, cores and threads."""
        with self._call("getInfo") as host:
            return [host.arch, host.memory, host.cpus, 2900, 2, 1, host.cpus // 4, 2]

    def networkLookupByName(self, name: str) -> virNetwork:
        with self._call("networkLookupByName") as host:
            if name not in host.networks:
                raise failure(VIR_ERR_NO_NETWORK, FROM_DOMAIN, f"no network {name!r}")
            return virNetwork(host.networks[name])

    def listAllStoragePools(self, flags: int = 0) -> list[virStoragePool]:
        with self._call("listAllStoragePools") as host:
            return [virStoragePool(self, pool) for pool in host.pools]

    def storagePoolLookupByName(self, name: str) -> virStoragePool:
        with self._call("storagePoolLookupByName") as host:
            if name not in {pool for pool, _ in host.volumes}:
                raise failure(VIR_ERR_NO_STORAGE_POOL, FROM_DOMAIN, f"no storage pool {name!r}")
            return virStoragePool(self, None, name)

    def getDomainCapabilities(
        self,
        emulatorbin: str | None = None,
        arch: str | None = None,
        machine: str | None = None,
        virttype: str | None = None,
        flags: int = 0,
    ) -> str:
        with self._call("getDomainCapabilities") as host:
            values = "<value>default</value><value>vfio</value>" if host.iommu else ""
            return (
                "<domainCapabilities><devices><hostdev supported='yes'>"
                f"<enum name='pciBackend'>{values}</enum></hostdev></devices></domainCapabilities>"
            )

    def numOfDevices(self, cap: str | None, flags: int = 0) -> int:
        with self._call("numOfDevices") as host, host.lock:
            listed = [node for node in host.nodes.values() if node.listed]
            return len([node for node in listed if cap is None or cap in node.capabilities])

    def listAllDevices(self, flags: int = 0) -> list[virNodeDevice]:
        with self._call("listAllDevices") as host, host.lock:
            return [
                virNodeDevice(self, node)
                for node in host.nodes.values()
                if node.listed and _matches(node, flags)
            ]

    def nodeDeviceLookupByName(self, name: str) -> virNodeDevice:
        with self._call("nodeDeviceLookupByName") as host:
            node = host.nodes.get(name)
            if node is None or not node.listed:
                raise failure(NO_NODE_DEVICE, FROM_NODEDEV, f"no node device {name!r}")
            return virNodeDevice(self, node)

    def nodeDeviceDefineXML(self, xmlDesc: str, flags: int = 0) -> virNodeDevice:
        with self._call("nodeDeviceDefineXML") as host:
            return virNodeDevice(self, host.define_mdev(xmlDesc))

    def listAllDomains(self, flags: int = 0) -> list[virDomain]:
        with self._call("listAllDomains") as host, host.lock:
            return [
                virDomain(self, guest)
                for guest in host.guests.values()
                if not flags or flags & _kind_of(guest)
            ]

    def lookupByUUIDString(self, uuidstr: str) -> virDomain:
        with self._call("lookupByUUIDString") as host:
            digits = uuidstr.replace("-", "").lower()
            if len(digits) != 32 or set(digits) - set("0123456789abcdef"):
                raise failure(INVALID_ARG, FROM_DOMAIN, "Invalid UUID")
            guest = host.guests.get(str(UUID(digits)))
            if guest is not None:
                return virDomain(self, guest)
            raise failure(NO_DOMAIN, VIR_FROM_QEMU, "Domain not found")

    def lookupByName(self, name: str) -> virDomain:
        with self._call("lookupByName") as host:
            for guest in list(host.guests.values()):
                if guest.name == name:
                    return virDomain(self, guest)
            raise failure(NO_DOMAIN, VIR_FROM_QEMU, "Domain not found")

    def defineXML(self, xml: str) -> virDomain:
        with self._call("defineXML") as host:
            return virDomain(self, host.define(xml))

    def domainEventRegisterAny(
        self,
        dom: virDomain | None,
        eventID: int,
        cb: Callback,
        opaque: object,
    ) -> int:
        kinds = {
            VIR_DOMAIN_EVENT_ID_LIFECYCLE: "lifecycle",
            VIR_DOMAIN_EVENT_ID_DEVICE_ADDED: "device_added",
            VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED: "device_removed",
            VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED: "device_removal_failed",
            VIR_DOMAIN_EVENT_ID_METADATA_CHANGE: "metadata",
        }
        with self._call("domainEventRegisterAny"):
            return self._register(kinds[eventID], dom, cb, opaque)

    def domainEventDeregisterAny(self, callbackID: int) -> int:
        with self._call("domainEventDeregisterAny"):
            del self._callbacks[callbackID]
            return 0

    def nodeDeviceEventRegisterAny(
        self,
        dev: virNodeDevice | None,
        eventID: int,
        cb: Callback,
        opaque: object,
    ) -> int:
        kind = "node" if eventID == VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE else "node_update"
        with self._call("nodeDeviceEventRegisterAny"):
            return self._register(kind, None, cb, opaque)

    def nodeDeviceEventDeregisterAny(self, callbackID: int) -> int:
        with self._call("nodeDeviceEventDeregisterAny"):
            del self._callbacks[callbackID]
            return 0

    def _register(self, kind: str, dom: virDomain | None, cb: Callback, opaque: object) -> int:
        if not _LOOP.is_set():
            raise failure(INTERNAL, FROM_RPC, "the event loop is not registered")
        self._next_callback += 1
        self._callbacks[self._next_callback] = (kind, dom, cb, opaque)
        return self._next_callback


class virNodeDevice:
    """A node device as one connection sees it."""

    def __init__(self, conn: virConnect, node: Node) -> None:
        self._conn = conn
        self._node = node

    def name(self) -> str:
        return self._node.name

    def parent(self) -> str | None:
        with self._conn._call("parent"):
            return self._node.parent or None

    def listCaps(self) -> list[str]:
        with self._conn._call("listCaps"):
            return self._node.capabilities

    def XMLDesc(self, flags: int = 0) -> str:
        with self._conn._call("XMLDesc") as host, host.lock:
            if not self._node.listed:
                raise failure(NO_NODE_DEVICE, FROM_NODEDEV, f"no node device {self.name()!r}")
            return host.node_xml(self._node)

    def detachFlags(self, driverName: str | None, flags: int = 0) -> int:
        if driverName not in {None, "vfio"}:
            raise failure(INVALID_ARG, FROM_NODEDEV, "unknown driver name")
        with self._change("detachFlags") as (host, device):
            host.take_to_vfio(device)
            return 0

    def reAttach(self) -> int:
        with self._change("reAttach") as (host, device):
            host.give_back(device)
            return 0

    def create(self, flags: int = 0) -> int:
        with self._change_mdev("nodeDeviceCreate") as (host, mdev):
            host.start_mdev(mdev)
            return 0

    def destroy(self) -> int:
        with self._change_mdev("nodeDeviceDestroy") as (host, mdev):
            host.remove_mdev(mdev)
            return 0

    def undefine(self, flags: int = 0) -> int:
        with self._change_mdev("nodeDeviceUndefine") as (host, mdev):
            host.undefine_mdev(mdev)
            return 0

    def setAutostart(self, autostart: int) -> int:
        with self._change_mdev("nodeDeviceSetAutostart") as (_, mdev):
            if not mdev.defined:
                raise failure(OPERATION_INVALID, FROM_NODEDEV, "cannot autostart transient device")
            mdev.autostart = bool(autostart)
            return 0

    def isActive(self) -> int:
        with self._conn._call("isActive"):
            return int(not isinstance(self._node, Mdev) or self._node.active)

    def isPersistent(self) -> int:
        with self._conn._call("isPersistent"):
            return int(not isinstance(self._node, Mdev) or self._node.defined)

    def autostart(self) -> int:
        with self._conn._call("getAutostart"):
            return int(not isinstance(self._node, Mdev) or self._node.autostart)

    @contextmanager
    def _change_mdev(self, call: str) -> Iterator[tuple[FakeHost, Mdev]]:
        with self._conn._call(call) as host:
            if not isinstance(self._node, Mdev):
                raise failure(INVALID_ARG, FROM_NODEDEV, f"{self.name()} is no mediated device")
            if not self._node.present:
                raise failure(NO_NODE_DEVICE, FROM_NODEDEV, f"no node device {self.name()!r}")
            yield host, self._node

    @contextmanager
    def _change(self, call: str) -> Iterator[tuple[FakeHost, Pci]]:
        """Libvirt works on one PCI device at a time: a hanging one holds up all others."""
        with self._conn._host.pci_work, self._conn._call(call) as host:
            if not isinstance(self._node, Pci):
                raise failure(INVALID_ARG, FROM_NODEDEV, f"{self.name()} is not a PCI device")
            if not self._node.present:
                raise failure(NO_NODE_DEVICE, FROM_NODEDEV, f"no node device {self.name()!r}")
            yield host, self._node


class virNetwork:
    """A virtual network."""

    def __init__(self, xml: str) -> None:
        self._xml = xml

    def XMLDesc(self, flags: int = 0) -> str:
        return self._xml


class virStoragePool:
    """A storage pool as one connection sees it."""

    def __init__(self, conn: virConnect, pool: Pool | None, name: str = "") -> None:
        self._conn = conn
        self._pool = pool
        self._name = name

    def info(self) -> list[int]:
        _, *figures = self._read("poolInfo")
        return [2, *figures]

    def XMLDesc(self, flags: int = 0) -> str:
        return f"<pool type='{self._read('poolXMLDesc')[0]}'/>"

    def storageVolLookupByName(self, name: str) -> virStorageVol:
        with self._conn._call("storageVolLookupByName") as host:
            path = host.volumes.get((self._name, name))
            if path is None:
                raise failure(VIR_ERR_NO_STORAGE_VOL, FROM_DOMAIN, f"no storage vol {name!r}")
            return virStorageVol(path)

    def _read(self, call: str) -> Pool:
        with self._conn._call(call):
            if self._pool is None:
                raise failure(VIR_ERR_NO_STORAGE_POOL, FROM_DOMAIN, "no storage pool")
            return self._pool


class virStorageVol:
    """A volume of a pool, which says its path without asking anybody."""

    def __init__(self, path: str) -> None:
        self._path = path

    def path(self) -> str:
        return self._path


class virDomain:
    """A domain as one connection sees it."""

    def __init__(self, conn: virConnect, guest: Guest) -> None:
        self._conn = conn
        self._guest = guest

    @contextmanager
    def _call(self, name: str) -> Iterator[FakeHost]:
        with self._conn._call(name) as host:
            if self._guest.uuid not in host.guests:
                raise failure(NO_DOMAIN, VIR_FROM_QEMU, f"no domain {self._guest.uuid}")
            yield host

    def UUIDString(self) -> str:
        return self._guest.uuid

    def name(self) -> str:
        return self._guest.name

    def isActive(self) -> int:
        with self._call("isActive"):
            return int(self._guest.active)

    def isPersistent(self) -> int:
        with self._call("isPersistent"):
            return int(self._guest.config is not None)

    def state(self, flags: int = 0) -> list[int]:
        with self._call("state"):
            return [self._guest.state, 0]

    def info(self) -> list[int]:
        with self._call("info"):
            memory, cpus = size_of(self._definition(0))
            return [self._guest.state, memory, memory, cpus, 0]

    def XMLDesc(self, flags: int = 0) -> str:
        with self._call("domainXMLDesc") as host, host.lock:
            shown = deepcopy(self._definition(flags & VIR_DOMAIN_XML_INACTIVE))
            if not flags & VIR_DOMAIN_XML_SECURE:
                for graphics in shown.iterfind("devices/graphics[@passwd]"):
                    del graphics.attrib["passwd"]
            return show(shown)

    def attachDeviceFlags(self, xml: str, flags: int = 0) -> int:
        with self._call("attachDeviceFlags") as host:
            host.attach(self._guest, xml, *self._affected(flags))
            return 0

    def detachDeviceFlags(self, xml: str, flags: int = 0) -> int:
        with self._call("detachDeviceFlags") as host:
            host.detach(self._guest, xml, *self._affected(flags))
            return 0

    def create(self) -> int:
        with self._call("create") as host:
            host.start(self._guest)
            return 0

    def destroy(self) -> int:
        with self._call("destroy") as host:
            host.stop(self._guest)
            return 0

    def undefine(self) -> int:
        with self._call("undefine") as host:
            host.undefine(self._guest)
            return 0

    def metadata(self, type: int, uri: str | None, flags: int = 0) -> str:
        with self._call("metadata"):
            found = _metadata_of(self._definition(flags & VIR_DOMAIN_AFFECT_CONFIG), str(uri))
            if found is None:
                raise failure(VIR_ERR_NO_DOMAIN_METADATA, FROM_DOMAIN, "metadata not found")
            return show(_strip_namespace(found))

    def setMetadata(
        self,
        type: int,
        metadata: str | None,
        key: str | None,
        uri: str | None,
        flags: int = 0,
    ) -> int:
        with self._call("setMetadata") as host:
            live, config = self._affected(flags)
            host.check_affected(self._guest, live, config)
            for affected, definition in ((live, self._guest.live), (config, self._guest.config)):
                if affected and definition is not None:
                    _set_metadata(definition, metadata, str(key), str(uri))
            host.save(self._guest)
            host.notify("metadata", (self._guest.uuid, VIR_DOMAIN_METADATA_ELEMENT, uri))
            return 0

    def _affected(self, flags: int) -> tuple[bool, bool]:
        live, config = bool(flags & VIR_DOMAIN_AFFECT_LIVE), bool(flags & VIR_DOMAIN_AFFECT_CONFIG)
        if live or config:
            return live, config
        return self._guest.active, not self._guest.active

    def _definition(self, inactive: int) -> Element:
        guest = self._guest
        first, second = (guest.config, guest.live) if inactive else (guest.live, guest.config)
        definition = first if first is not None else second
        assert definition is not None
        return definition


def _kind_of(guest: Guest) -> int:
    kind = VIR_CONNECT_LIST_DOMAINS_TRANSIENT
    if guest.config is not None:
        kind = VIR_CONNECT_LIST_DOMAINS_PERSISTENT
    return kind | VIR_CONNECT_LIST_DOMAINS_ACTIVE if guest.active else kind


def _matches(node: Node, flags: int) -> bool:
    return not flags or any(_LISTED.get(kind, 0) & flags for kind in node.capabilities)


def _metadata_of(definition: Element, uri: str) -> Element | None:
    return next(definition.iterfind(f"metadata/{{{uri}}}*"), None)


def _set_metadata(definition: Element, xml: str | None, key: str, uri: str) -> None:
    """Replace the element of that namespace; a given one is put into it whole, as libvirt does."""
    metadata = definition.find("metadata")
    if metadata is None:
        metadata = etree.Element("metadata")
        definition.insert(2, metadata)
    old = _metadata_of(definition, uri)
    if old is not None:
        metadata.remove(old)
    if xml is not None:
        metadata.append(_with_namespace(parse(xml), key, uri))


def _with_namespace(element: Element, key: str, uri: str) -> Element:
    tag = etree.QName(uri, etree.QName(element).localname)
    named = etree.Element(tag, dict(element.attrib), nsmap={key: uri})
    named.text = element.text
    named.extend(_with_namespace(child, key, uri) for child in element)
    return named


def _strip_namespace(element: Element) -> Element:
    bare = deepcopy(element)
    for each in bare.iter():
        each.tag = etree.QName(each).localname
    etree.cleanup_namespaces(bare)
    return bare
