"""Hosts of libvirt's test driver, with the drivers that it leaves out.

Its state is in the process of its caller, drops ``<driver>`` from the file that its URI
names, has neither detach nor reattach and makes no mediated devices. All of these are added here
and in ``test_driver_slices``, in memory.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from lxml.etree import _Element as Element

from hypeman_libvirt.devices.address import HostDeviceId, PciAddress
from hypeman_libvirt.devices.domain import Domain, GuestInterface
from hypeman_libvirt.devices.errors import DeviceNotFoundError, InUseError, LibvirtFailedError
from hypeman_libvirt.devices.node_device import NodeDevice, VgpuProfile
from hypeman_libvirt.devices.rules import on_vfio
from hypeman_libvirt.host.assignments import DomainReader
from hypeman_libvirt.host.connection import Connection
from hypeman_libvirt.host.domains import Domains
from hypeman_libvirt.host.node_devices import NodeDevices
from hypeman_libvirt.host.test_driver_helper import MemoryFunctions
from hypeman_libvirt.host.test_driver_slices import MemorySlices, Room
from hypeman_libvirt.host.xml.document import parse_xml, show_xml
from hypeman_libvirt.host.xml.node_device import parse_node_device

_log = logging.getLogger(__name__)
_VFIO: Final = "vfio-pci"
_BUILT_IN: Final = {"", "/", "/default"}
"""Paths of ``test:///default``, whose host is part of libvirt and names no file."""


def demo_uri() -> str:
    """Return the URI of the embedded host, installed or in a checkout."""
    package = files("hypeman_libvirt")
    installed = Path(str(package / "demo-host.xml"))
    checkout = Path(str(package)).parent / "contrib" / "demo" / "host.xml"
    return f"test://{quote(str(installed if installed.exists() else checkout))}"


def is_test_driver(uri: str) -> bool:
    """Whether libvirt's test driver serves the URI, in this process."""
    return urlsplit(uri).scheme == "test"


class TestDriverNodeDevices(NodeDevices):
    """Node devices of the test driver, with drivers in memory.

    Attributes:
        functions: Virtual functions that were made, in memory as well.
        slices: vGPUs on them, also in memory.
    """

    def __init__(self, connection: Connection) -> None:
        """Read the drivers from the file that the connection's URI names.

        Raises:
            LibvirtFailedError: The file cannot be read.
        """
        super().__init__(connection)
        described = _read_file(connection.uri)
        vgpus = {node.address: _read_vgpus(element) for node, element in described}
        self.slices = MemorySlices({address: room for address, room in vgpus.items() if room})
        self._reader = DomainReader(connection)
        self._lock = threading.Lock()
        self._described = {node.address: node for node, _ in described}
        self._at_boot = {node.address: node.driver for node, _ in described}
        self._drivers: dict[PciAddress, str | None] = dict(self._at_boot)
        self._taken: dict[PciAddress, str | None] = {}
        self.functions = MemoryFunctions()
        _log.warning(
            "%s is libvirt's test driver: drivers, bind and unbind are kept in memory only",
            connection.uri,
        )

    def find_named(self, node_name: str) -> NodeDevice | None:
        """Look up by libvirt's name, also one that was made."""
        made = [each for each in self.functions.list_made() if each.node_name == node_name]
        return self._with_memory(made[0]) if made else super().find_named(node_name)

    def list_devices(self) -> Sequence[NodeDevice]:
        """List all, by address, also those that were made."""
        made = [self._with_memory(each) for each in self.functions.list_made()]
        listed = {node.address: node for node in [*super().list_devices(), *made]}
        return [listed[address] for address in sorted(listed)]

    def set_functions(self, physical: NodeDevice, count: int, *, autoprobe: bool) -> None:
        """Have so many virtual functions of a physical one."""
        made = self.functions.set(physical, count, autoprobe=autoprobe)
        with self._lock:
            for address in physical.virtual_functions if made is not None else ():
                self._drivers.pop(address, None)
            self._drivers |= {each.address: each.driver for each in made or ()}

    def bind(self, address: PciAddress) -> None:
        """Put the device on vfio-pci, in memory."""
        self._move(address, _VFIO)

    def unbind(self, address: PciAddress) -> None:
        """Put the device on the driver that the file names, in memory."""
        at_boot = self._at_boot.get(address)
        self._move(address, None if on_vfio(at_boot) else at_boot)

    def driver(self, address: PciAddress) -> str | None:
        """Return the driver that the device has in memory."""
        with self._lock:
            return self._drivers.get(address)

    def is_vfio_provider(self, address: PciAddress, driver: str | None) -> bool:
        """Whether it is a vGPU in memory: the test driver's devices are in no sysfs."""
        return not on_vfio(driver) and self.slices.is_vgpu(address)

    def vgpu(self, address: PciAddress) -> tuple[str | None, tuple[VgpuProfile, ...]]:
        """Return the type of vGPU that a virtual function is in memory, and what it could be."""
        made = {each.address: each for each in self.functions.list_made()}
        known = self._described.get(address) or made.get(address)
        node = known and self._with_memory(self.functions.apply(known) or known)
        return (node.vgpu_type, node.vgpu_profiles) if node else (None, ())

    def addresses(self) -> None:
        """Return None: the test driver announces its node devices."""

    def follow_domains(self) -> None:
        """Do with managed devices what libvirt does when a domain takes or returns them."""
        used = self._used()
        with self._lock:
            for address in used.keys() - self._taken.keys():
                if not on_vfio(self._drivers.get(address)):
                    self._taken[address] = self._drivers.get(address)
                    self._drivers[address] = _VFIO
            for address in self._taken.keys() - used.keys():
                self._drivers[address] = self._taken.pop(address)

    def _parse(self, xml: str) -> NodeDevice | None:
        device = super()._parse(xml)
        node = device and self.functions.apply(device)
        return node and self._with_memory(node)

    def _with_memory(self, node: NodeDevice) -> NodeDevice:
        """Add the driver, and how many vGPUs fit: none while it is off its host driver."""
        driver = self.driver(node.address)
        if on_vfio(driver):
            return replace(node, driver=driver, vgpu_profiles=())
        return self.slices.apply(replace(node, driver=driver))

    def _move(self, address: PciAddress, driver: str | None) -> None:
        """Change the driver of a device that no running domain uses, as libvirt does.

        Raises:
            DeviceNotFoundError: There is none at the address.
            InUseError: A running domain uses it.
        """
        if self.find(address) is None:
            raise DeviceNotFoundError(
                f"no PCI device {address} on this host; GET /devices/available lists them"
            )
        user = self._used().get(address)
        if user is not None:
            raise InUseError(f"{address} is in use by domain {user}; detach it first")
        with self._lock:
            self._drivers[address] = driver

    def _used(self) -> Mapping[PciAddress, str]:
        """Return what running domains have, and which one has it."""
        return {
            held.device: name
            for name, record in self._reader.read_all().items()
            for held in (record.live.held if record.live else ())
            if isinstance(held.device, PciAddress)
        }


class TestDriverDomains(Domains):
    """Domains of the test driver, whose devices change drivers as on a real host."""

    def __init__(self, connection: Connection, node_devices: TestDriverNodeDevices) -> None:
        """Let these node devices follow what the domains take and return."""
        super().__init__(connection)
        self._node_devices = node_devices

    def attach(
        self,
        domain: Domain,
        devices: Sequence[HostDeviceId],
        unmanaged: Collection[HostDeviceId] = (),
        interface: GuestInterface | None = None,
    ) -> None:
        """Give devices to the domain, and to vfio-pci if it runs."""
        super().attach(domain, devices, unmanaged, interface)
        self._node_devices.follow_domains()

    def detach(self, domain: Domain, devices: Sequence[HostDeviceId]) -> None:
        """Take devices out of the domain, and off vfio-pci if that is how they got there."""
        super().detach(domain, devices)
        self._node_devices.follow_domains()


def _read_file(uri: str) -> Sequence[tuple[NodeDevice, Element]]:
    """Read the PCI functions of the file that a URI names, each with its whole element."""
    path = unquote(urlsplit(uri).path)
    if path in _BUILT_IN:
        return []
    try:
        document = parse_xml(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise LibvirtFailedError(f"{path}, which {uri} names, cannot be read") from error
    nodes = ((parse_node_device(show_xml(each)), each) for each in document.iterfind("device"))
    return [(node, each) for node, each in nodes if node is not None]


def _read_vgpus(element: Element) -> Room:
    """Read what a virtual function can be made; libvirt's format has no place for it."""
    return {
        each.get("id", ""): (each.text or "", int(each.get("room", "0")))
        for each in element.iterfind("vgpus/type")
    }
