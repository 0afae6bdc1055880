"""The PCI functions of the fake host, and what becomes of their drivers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, Unpack

from lxml import etree
from lxml.etree import _Element as Element

from tests.fake_errors import (
    CONFIG_UNSUPPORTED,
    FROM_NODEDEV,
    INTERNAL,
    OPERATION_INVALID,
    SYSTEM,
    failure,
)
from tests.fake_faults import Faults
from tests.fake_xml import (
    PciFacts,
    address_of,
    block_element,
    fill,
    leaf,
    mdev_element,
    net_element,
    node_name,
    on_vfio,
    parse,
    pci_element,
    show,
    show_node,
)

Pool: TypeAlias = tuple[str, int, int, int]
"""Type, capacity, allocation and what is available, in bytes."""
TEST_POOL: Final[Pool] = ("dir", 100 * 1024**3, 0, 100 * 1024**3)
"""What the test driver says of every pool."""


@dataclass
class Node:
    """A node device: its XML without what changes, and what changes."""

    element: Element
    parent: str
    present: bool = True
    listed: bool = True
    refusal: tuple[int, int] | None = None  # code and domain of every read of it

    @property
    def name(self) -> str:
        return self.element.findtext("name") or ""

    @property
    def capabilities(self) -> list[str]:
        return [str(kind) for kind in self.element.xpath("capability/@type")]


@dataclass
class Pci(Node):
    """A PCI function and what became of its drivers.

    ``probes`` counts how often a host driver took the device, ``unbinds`` how often one lost it:
    a test that counts no unbind knows that the device was not bounced.
    """

    address: str = ""
    group: int | None = None
    driver: str | None = None
    host_driver: str | None = None
    vfio_driver: str = "vfio-pci"
    is_vfio_provider: bool = False  # its host driver gives it to guests itself
    refused_by_vfio: bool = False
    refused_by_host_driver: bool = False
    conventional: bool = False
    probes: int = 0
    unbinds: int = 0

    def leave_group(self) -> None:
        """Be what the function is on a host without an IOMMU."""
        self.group = None
        capability = self.element.find("capability[@type='pci']")
        group = None if capability is None else capability.find("iommuGroup")
        if capability is not None and group is not None:
            capability.remove(group)

    @property
    def is_left_on_provider(self) -> bool:
        """Whether its driver of now is a VFIO provider other than vfio-pci."""
        if self.driver in {None, "vfio-pci"}:
            return False
        return on_vfio(self.driver) or (self.is_vfio_provider and self.driver == self.host_driver)

    @property
    def is_bridge(self) -> bool:
        kinds = self.element.xpath("capability/capability/@type")
        return "pci-bridge" in kinds

    @property
    def physical_function(self) -> str | None:
        found = self.element.find("capability/capability[@type='phys_function']/address")
        return None if found is None else address_of(found)


@dataclass
class Mdev(Node):
    """A mediated device: active, only defined, or active without a definition."""

    uuid: str = ""
    type_id: str = ""
    group: int = 0
    active: bool = False
    defined: bool = False
    autostart: bool = False


Notify = Callable[[str, tuple[object, ...]], None]


class Machine(Faults):
    """Node devices and drivers, without libvirt's rules about domains.

    ``pools`` are its storage pools; None is one that is stopped between the list and the read.
    ``volumes`` are paths by the names of pool and volume. ``lying_on`` says on which function what
    domains refer to lies, ``mdevs`` likewise of mediated devices: they end with the parent's
    driver and stay in ``gone_mdevs``.
    """

    def __init__(self, *, iommu: bool) -> None:
        super().__init__()
        self.iommu = iommu
        self.libvirt = 9_000_000
        self.arch, self.cpus, self.memory = "x86_64", 64, 262144  # memory in MiB
        self.hypervisors = ["qemu", "kvm"]
        self.networks: dict[str, str] = {}
        self.pools: list[Pool | None] = []
        self.volumes: dict[tuple[str, str], str] = {}
        self.nodes: dict[str, Node] = {}
        self.lying_on: dict[str, str] = {}
        self.mdevs: dict[str, str] = {}
        self.gone_mdevs: set[str] = set()
        self.listeners: list[Notify] = []
        self.add_node("<device><name>computer</name><capability type='system'/></device>")

    def add_pci(
        self,
        address: str,
        *,
        driver: str | None = None,
        host_driver: str | None = None,
        **facts: Unpack[PciFacts],
    ) -> Pci:
        """Plug a function in. ``host_driver`` probes it; by default the driver it starts with."""
        if not self.iommu:
            facts.pop("group", None)
        return self._plug(pci_element(address, **facts), driver, host_driver)

    def add_node(self, xml: str) -> Node:
        """List a node device as its XML says; a PCI one starts on the driver it names."""
        element = parse(xml)
        if element.find("capability[@type='pci']") is not None:
            driver = element.findtext("driver/name")
            return self._plug(element, driver, None)
        node = Node(element, element.findtext("parent") or "")
        with self.lock:
            self.nodes[node.name] = node
        self._announce_node(node.name, 0)
        return node

    def add_child(
        self,
        address: str,
        kind: Literal["net", "block"],
        what: str,
        *,
        link: Literal["up", "down"] = "up",
        mac: str = "52:54:00:aa:00:01",
    ) -> str:
        """Put a network interface or a disk below a PCI function; return its node name."""
        parent = self.pci(address)
        if kind == "net":
            child = net_element(parent.element, what, link, mac)
        else:
            child = block_element(parent.element, what)
        return self.add_node(show(child)).name

    def pci(self, address: str) -> Pci:
        """Return the function at an address."""
        for node in self.functions():
            if node.address == address:
                return node
        raise KeyError(address)

    def functions(self) -> Iterator[Pci]:
        """Iterate over the functions that are there."""
        with self.lock:
            nodes = list(self.nodes.values())
        return (node for node in nodes if isinstance(node, Pci) and node.present)

    def driver(self, address: str) -> str | None:
        """Return the driver that a function is on."""
        return self.pci(address).driver

    def vanish(self, name: str, *, still_listed: bool = False) -> None:
        """Take a node device (by name or address) away; a stale entry may stay in the list."""
        name = node_name(name) if name not in self.nodes else name
        with self.lock:
            self.nodes[name].present = False
            self.nodes[name].listed = still_listed
        self._announce_node(name, 1)

    def vfio_refuses(self, address: str) -> None:
        """Let a detach of the device return 0 and leave it without a driver."""
        self.pci(address).refused_by_vfio = True

    def driver_refuses(self, address: str) -> None:
        """Let a reattach of the device return 0 and leave it without a driver."""
        self.pci(address).refused_by_host_driver = True

    def set_driver(self, address: str, driver: str | None) -> None:
        """Change the driver as someone does in sysfs: libvirt announces nothing."""
        self.pci(address).driver = driver

    def provides_vfio(self, address: str) -> None:
        """Let the function's host driver be its own VFIO provider, as NVIDIA's is of vGPUs."""
        self.pci(address).is_vfio_provider = True

    def is_conventional(self, address: str) -> None:
        """Let the function be conventional PCI: libvirt finds no root port for it by itself."""
        self.pci(address).conventional = True

    def node_xml(self, node: Node) -> str:
        """Render a node device with the driver, group and virtual functions of this moment."""
        if not node.present:
            raise failure(SYSTEM, FROM_NODEDEV, f"could not access {node.name}")
        if node.refusal is not None:
            raise failure(*node.refusal, f"{node.name} cannot be read")
        element = deepcopy(node.element)
        if isinstance(node, Pci):
            self._render_pci(node, element)
        if isinstance(node, Mdev) and node.active:
            _render_active(node, element)
        return show_node(element)

    def define_mdev(self, xml: str) -> Mdev:
        """virNodeDeviceDefineXML."""
        element = parse(xml)
        parent = self.nodes.get(element.findtext("parent") or "")
        kind = element.find("capability/type")
        if not isinstance(parent, Pci) or kind is None:
            raise failure(CONFIG_UNSUPPORTED, FROM_NODEDEV, "no such parent")
        uuid, type_id = element.findtext("capability/uuid") or "", kind.get("id") or ""
        types = parent.element.xpath("capability/capability[@type='mdev_types']/type/@id")
        if type_id not in types or any(each.uuid == uuid for each in self.mediated_devices()):
            raise failure(INTERNAL, FROM_NODEDEV, "Unable to define mediated device")
        mdev = Mdev(
            mdev_element(uuid, parent.name, type_id),
            parent.name,
            uuid=uuid,
            type_id=type_id,
            group=200 + len(self.nodes),
            defined=True,
        )
        with self.lock:
            self.nodes[mdev.name] = mdev
            self.gone_mdevs.add(uuid)
        self._announce_node(mdev.name, 2)
        return mdev

    def start_mdev(self, mdev: Mdev) -> None:
        """virNodeDeviceCreate: what mdevctl says when there is no room has no code of its own."""
        if mdev.active:
            raise failure(OPERATION_INVALID, FROM_NODEDEV, "Device is already active")
        parent = self.nodes[mdev.parent]
        assert isinstance(parent, Pci)
        with self.lock:
            if self.room(parent).get(mdev.type_id, 0) < 1:
                raise failure(INTERNAL, FROM_NODEDEV, "Unable to start mediated device")
            mdev.active = True
            self.mdevs[mdev.uuid] = parent.address
            self.gone_mdevs.discard(mdev.uuid)
        self._announce_node(mdev.name, 0)

    def end_mdev(self, mdev: Mdev) -> None:
        """virNodeDeviceDestroy: what is defined stays, inactive."""
        if not mdev.active:
            raise failure(OPERATION_INVALID, FROM_NODEDEV, "Device is not active")
        mdev.active = False
        self.mdevs.pop(mdev.uuid, None)
        self.gone_mdevs.add(mdev.uuid)
        if mdev.defined:
            self._announce_node(mdev.name, 1)
        else:
            self.vanish(mdev.name)

    def undefine_mdev(self, mdev: Mdev) -> None:
        """virNodeDeviceUndefine: an active one becomes transient."""
        if not mdev.defined:
            raise failure(OPERATION_INVALID, FROM_NODEDEV, "Device is not defined")
        mdev.defined = mdev.autostart = False
        if mdev.active:
            self._announce_node(mdev.name, 3)
        else:
            self.vanish(mdev.name)

    def mediated_devices(self) -> list[Mdev]:
        """Return those that are active or defined."""
        with self.lock:
            nodes = list(self.nodes.values())
        return [node for node in nodes if isinstance(node, Mdev) and node.present]

    def room(self, parent: Pci) -> dict[str, int]:
        """Return how many more fit of each type: one type at a time, as on NVIDIA's GPUs."""
        if parent.driver is None or on_vfio(parent.driver):
            return {}
        living = [
            each.type_id
            for each in self.mediated_devices()
            if each.active and each.parent == parent.name
        ]
        types = parent.element.iterfind("capability/capability[@type='mdev_types']/type")
        return {
            kind: max(int(each.findtext("availableInstances") or 0) - len(living), 0)
            if {*living} <= {kind}
            else 0
            for each in types
            for kind in [each.get("id") or ""]
        }

    def notify(self, kind: str, what: tuple[object, ...]) -> None:
        """Tell every connection what happened."""
        with self.lock:
            listeners = list(self.listeners)
        for listener in listeners:
            listener(kind, what)

    def _plug(self, element: Element, driver: str | None, host_driver: str | None) -> Pci:
        capability = element.find("capability[@type='pci']")
        assert capability is not None
        group = capability.find("iommuGroup")
        number = None if group is None else int(group.get("number") or "0")
        native = host_driver or (None if on_vfio(driver) else driver)
        device = Pci(
            element,
            element.findtext("parent") or "computer",
            address=address_of(capability, 10),
            group=number,
            driver=driver,
            host_driver=native,
            vfio_driver=driver if driver is not None and on_vfio(driver) else "vfio-pci",
        )
        with self.lock:
            self.nodes[device.name] = device
        self._announce_node(device.name, 0)
        return device

    def _announce_node(self, name: str, event: int) -> None:
        self.notify("node", (name, event))

    def _render_pci(self, device: Pci, element: Element) -> None:
        for old in element.findall("driver"):
            element.remove(old)
        if device.driver is not None:
            driver = etree.Element("driver")
            leaf(driver, "name", device.driver)
            element.insert(3, driver)
        self._render_types(device, element)
        members = [other for other in self.functions() if other.group == device.group]
        fill(element.find("capability/iommuGroup"), [other.address for other in members])
        virtual = [f.address for f in self.functions() if f.physical_function == device.address]
        fill(element.find("capability/capability[@type='virt_functions']"), virtual)

    def _render_types(self, device: Pci, element: Element) -> None:
        """Say how many more mediated devices fit; off its driver there are no types."""
        room = self.room(device)
        for kind in element.iterfind("capability/capability[@type='mdev_types']/type"):
            left = kind.find("availableInstances")
            assert left is not None
            left.text = str(room.get(kind.get("id") or "", 0))
        types = element.find("capability/capability[@type='mdev_types']")
        if types is not None and not room:
            element.find("capability").remove(types)  # type: ignore[union-attr]

    def _has_virtual_functions(self, device: Pci) -> bool:
        return any(other.physical_function == device.address for other in self.functions())

    def is_there(self, reference: str) -> bool:
        """Whether what a domain refers to is there: while its function is on the host's driver."""
        address = self.mdevs.get(reference) or self.lying_on.get(reference)
        if address is None:
            return reference not in self.gone_mdevs
        return any(each.address == address and each.driver for each in self.functions()) and (
            not on_vfio(self.driver(address))
        )

    def _lose_driver(self, device: Pci) -> None:
        if device.driver is not None and not on_vfio(device.driver):
            device.unbinds += 1
            self._show_children(device, present=False)
            self._end_mdevs(device)
            for function in list(self.functions()):
                if function.physical_function == device.address:
                    self.vanish(function.name)
        device.driver = None

    def _end_mdevs(self, device: Pci) -> None:
        ended = {each for each, parent in self.mdevs.items() if parent == device.address}
        self.gone_mdevs |= ended
        self.mdevs = {each: parent for each, parent in self.mdevs.items() if each not in ended}
        for mdev in self.mediated_devices():
            if mdev.active and mdev.parent == device.name:
                self.end_mdev(mdev)

    def _show_children(self, device: Pci, *, present: bool) -> None:
        for node in list(self.nodes.values()):
            if node.parent == device.name and not isinstance(node, Pci):
                node.present = node.listed = present
                self._announce_node(node.name, 0 if present else 1)

    def _detach(self, device: Pci) -> None:
        if on_vfio(device.driver):
            return
        refused = device.refused_by_vfio or device.is_bridge or self._has_virtual_functions(device)
        self._lose_driver(device)
        device.driver = None if refused else device.vfio_driver

    def _reattach(self, device: Pci) -> None:
        self._lose_driver(device)
        if device.refused_by_host_driver or device.host_driver is None:
            return
        device.driver = device.host_driver
        device.probes += 1
        self._show_children(device, present=True)


def _render_active(mdev: Mdev, element: Element) -> None:
    """Add what libvirt knows of a mediated device that is active."""
    driver = etree.Element("driver")
    leaf(driver, "name", "vfio_mdev")
    element.insert(2, driver)
    capability = element.find("capability")
    assert capability is not None
    etree.SubElement(capability, "iommuGroup", number=str(mdev.group))
