"""The XML that the fake host answers in: read, written and changed as libvirt does."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Final, TypedDict, Unpack
from xml.sax.saxutils import escape

from lxml import etree
from lxml.etree import _Element as Element

from tests.fake_errors import FROM_DOMAIN, INTERNAL, XML_ERROR, failure

_PARSER: Final = etree.XMLParser(resolve_entities=False, no_network=True, remove_blank_text=True)


def parse(xml: str) -> Element:
    return etree.fromstring(xml, _PARSER)


def show(element: Element) -> str:
    return etree.tostring(element, pretty_print=True, encoding="unicode")


def show_node(element: Element) -> str:
    """Print a node device as libvirt 9.0 does: what the card's VPD says is not escaped."""
    xml = show(element)
    for said in element.iterfind("capability/capability[@type='vpd']/fields/*"):
        text, end = said.text or "", f"</{said.tag!s}>"
        xml = xml.replace(f">{escape(text)}{end}", f">{text}{end}")
    return xml


def address_of(element: Element, base: int = 0) -> str:
    """Read ``<address domain= bus= slot= function=/>`` (hex) or the decimal children of a node."""
    parts = [
        int(element.get(part) or element.findtext(part) or "0", base)
        for part in ("domain", "bus", "slot", "function")
    ]
    return "{:04x}:{:02x}:{:02x}.{:x}".format(*parts)


def address_xml(address: str, **more: str) -> Element:
    domain, bus, rest = address.split(":")
    slot, function = rest.split(".")
    values = {"domain": domain, "bus": bus, "slot": slot, "function": function}
    element = etree.Element("address", more)
    for key, value in values.items():
        element.set(key, f"0x{value}")
    return element


def node_name(address: str) -> str:
    return "pci_" + address.replace(":", "_").replace(".", "_")


def on_vfio(driver: str | None) -> bool:
    return driver is not None and driver.replace("_", "-").endswith("vfio-pci")


def hostdevs(definition: Element | None) -> list[Element]:
    """Return every element that holds a PCI function of the host."""
    if definition is None:
        return []
    found = definition.xpath(
        "devices/hostdev[@mode='subsystem'][@type='pci'] | devices/interface[@type='hostdev']"
    )
    return list(found)


def assigned(definition: Element | None) -> list[Element]:
    """Return every element that holds a PCI function or a mediated device of the host."""
    if definition is None:
        return []
    return [*hostdevs(definition), *definition.iterfind("devices/hostdev[@type='mdev']")]


def source_of(hostdev: Element) -> str:
    address = hostdev.find("source/address")
    if address is None:
        raise failure(27, FROM_DOMAIN, "XML error: missing source address")
    return address.get("uuid") or address_of(address)


def passed_through(definition: Element | None) -> list[Element]:
    """Return every element that takes a PCI function to VFIO: a disk of type nvme does, too."""
    if definition is None:
        return []
    return [*hostdevs(definition), *definition.iterfind("devices/disk[@type='nvme']")]


def held(definition: Element | None) -> set[str]:
    return {source_of(each) for each in passed_through(definition)}


def is_managed(element: Element) -> bool:
    source = element.find("source[@managed]")
    return (element if source is None else source).get("managed") == "yes"


def references(definition: Element | None) -> set[str]:
    """Return what the domain lives on without having it itself, in the words of its XML."""
    if definition is None:
        return set()
    found = [
        *definition.xpath("devices/disk[@type='block']/source/@dev"),
        *definition.xpath("devices/hostdev[@type='mdev']/source/address/@uuid"),
    ]
    places = definition.iterfind("devices/hostdev[@type='usb']/source/address")
    return {str(each) for each in found} | {
        f"usb {each.get('bus')}:{each.get('device')}" for each in places
    }


def parse_domain(xml: str) -> Element:
    """Parse a domain's XML, with libvirt's errors for what is none."""
    try:
        element = parse(xml)
    except etree.XMLSyntaxError as error:
        raise failure(35, FROM_DOMAIN, f"(domain_definition):1: {error}") from None
    if not element.findtext("name"):
        raise failure(21, FROM_DOMAIN, "missing name information")
    return element


def leaf(parent: Element, tag: str, text: str, **attributes: str) -> None:
    etree.SubElement(parent, tag, attributes).text = text or None


def _add_vgpu(pci: Element, profiles: Iterable[tuple[str, str, int]]) -> None:
    profiles = list(profiles)
    if not profiles:
        return
    capability = etree.SubElement(pci, "capability", type="mdev_types")
    for type_id, name, available in profiles:
        kind = etree.SubElement(capability, "type", id=type_id)
        leaf(kind, "name", name)
        leaf(kind, "deviceAPI", "vfio-pci")
        leaf(kind, "availableInstances", str(available))


def _add_links(pci: Element, cap: tuple[str, str] | None, sta: tuple[str, str] | None) -> None:
    if cap is None or sta is None:
        return
    express = etree.SubElement(pci, "pci-express")
    for validity, (speed, width) in (("cap", cap), ("sta", sta)):
        etree.SubElement(express, "link", validity=validity, port="0", speed=speed, width=width)


def fill(element: Element | None, addresses: Iterable[str]) -> None:
    if element is None:
        return
    for old in element.findall("address"):
        element.remove(old)
    element.extend(address_xml(address) for address in addresses)


class DomainFacts(TypedDict, total=False):
    """What a domain's definition may say; the guest's machine is q35 with four root ports."""

    hostdevs: Iterable[str]
    managed: bool
    root_ports: int
    machine: str
    instance_id: str
    numa: str
    uuid: str


class PciFacts(TypedDict, total=False):
    """What libvirt may say of a PCI function; ids and class in hex without ``0x``."""

    name: str
    parent: str
    vendor: str
    vendor_name: str
    product: str
    product_name: str
    class_code: str | None
    group: int
    bridge: bool
    numa: int
    serial: str
    physical_function: str
    max_vfs: int
    link: tuple[str, str]
    link_status: tuple[str, str]
    vgpu: Iterable[tuple[str, str, int]]


def pci_element(address: str, **facts: Unpack[PciFacts]) -> Element:
    """Describe a PCI function; without facts it is an L4 in no IOMMU group."""
    device = etree.Element("device")
    leaf(device, "name", facts.get("name", node_name(address)))
    leaf(device, "path", f"/sys/devices/pci{address[:-5]}/{address}")
    leaf(device, "parent", facts.get("parent", "computer"))
    pci = etree.SubElement(device, "capability", type="pci")
    class_code = facts.get("class_code", "030200")
    if class_code is not None:
        leaf(pci, "class", f"0x{class_code}")
    for key, value in address_xml(address).items():
        leaf(pci, str(key), str(int(value, 16)))
    leaf(pci, "product", facts.get("product_name", ""), id="0x" + facts.get("product", "27b8"))
    leaf(pci, "vendor", facts.get("vendor_name", ""), id="0x" + facts.get("vendor", "10de"))
    _add_capabilities(pci, facts)
    if "group" in facts:
        etree.SubElement(pci, "iommuGroup", number=str(facts["group"]))
    if "numa" in facts:
        etree.SubElement(pci, "numa", node=str(facts["numa"]))
    if "link" in facts:
        _add_links(pci, facts["link"], facts.get("link_status", facts["link"]))
    return device


def _add_capabilities(pci: Element, facts: PciFacts) -> None:
    if "physical_function" in facts:
        virtual = etree.SubElement(pci, "capability", type="phys_function")
        virtual.append(address_xml(facts["physical_function"]))
    if "max_vfs" in facts:
        count = str(facts["max_vfs"])
        etree.SubElement(pci, "capability", type="virt_functions", maxCount=count)
    if facts.get("bridge"):
        etree.SubElement(pci, "capability", type="pci-bridge")
    _add_vgpu(pci, facts.get("vgpu", ()))
    if "serial" in facts:
        vpd = etree.SubElement(pci, "capability", type="vpd")
        fields = etree.SubElement(vpd, "fields", access="readonly")
        leaf(fields, "serial_number", facts["serial"])


def _child(parent: Element, kind: str, name: str, path: str) -> tuple[Element, Element]:
    device = etree.Element("device")
    leaf(device, "name", name)
    leaf(device, "path", f"{parent.findtext('path')}/{path}")
    leaf(device, "parent", parent.findtext("name") or "")
    return device, etree.SubElement(device, "capability", type=kind)


def net_element(parent: Element, interface: str, link: str, mac: str) -> Element:
    """Describe a network interface of a PCI function."""
    name = f"net_{interface}_{mac.replace(':', '_')}"
    device, capability = _child(parent, "net", name, f"net/{interface}")
    leaf(capability, "interface", interface)
    leaf(capability, "address", mac)
    etree.SubElement(capability, "link", state=link)
    etree.SubElement(capability, "capability", type="80203")
    return device


def block_element(parent: Element, disk: str) -> Element:
    """Describe a disk of a PCI function."""
    device, capability = _child(parent, "storage", f"block_{disk}", f"block/{disk}")
    leaf(capability, "block", f"/dev/{disk}")
    leaf(capability, "drive_type", "disk")
    return device


def mdev_element(uuid: str, parent: str, type_id: str) -> Element:
    """Describe a mediated device; libvirt's name of the parent is part of its own."""
    device = etree.Element("device")
    address = parent.removeprefix("pci_")
    leaf(device, "name", f"mdev_{uuid.replace('-', '_')}_{address}")
    leaf(device, "parent", parent)
    capability = etree.SubElement(device, "capability", type="mdev")
    etree.SubElement(capability, "type", id=type_id)
    leaf(capability, "uuid", uuid)
    return device


def domain_element(name: str, **facts: Unpack[DomainFacts]) -> Element:
    """Describe a domain with its PCI controllers and the devices that it holds."""
    machine = facts.get("machine", "pc-q35-7.2")
    domain = etree.Element("domain", type="kvm")
    leaf(domain, "name", name)
    leaf(domain, "uuid", facts.get("uuid", str(uuid.uuid4())))
    if "instance_id" in facts:
        metadata = etree.SubElement(domain, "metadata")
        tag = "{urn:hypeman:libvirt:instance:1}instance"
        namespaces = {"hypeman": "urn:hypeman:libvirt:instance:1"}
        etree.SubElement(metadata, tag, id=facts["instance_id"], nsmap=namespaces)
    leaf(domain, "memory", "32768", unit="KiB")
    if "numa" in facts:
        numatune = etree.SubElement(domain, "numatune")
        etree.SubElement(numatune, "memory", mode="strict", nodeset=facts["numa"])
    leaf(etree.SubElement(domain, "os"), "type", "hvm", arch="x86_64", machine=machine)
    devices = etree.SubElement(domain, "devices")
    devices.extend(_controllers("q35" in machine, facts.get("root_ports", 4)))
    managed = facts.get("managed", True)
    devices.extend(hostdev_element(each, managed=managed) for each in facts.get("hostdevs", ()))
    return domain


def size_of(definition: Element) -> tuple[int, int]:
    """Read KiB of memory and the number of virtual CPUs."""
    memory = definition.find("memory")
    assert memory is not None
    scale = {"KiB": 1, "MiB": 1024, "GiB": 1024 * 1024}[memory.get("unit") or "KiB"]
    return int(memory.text or 0) * scale, int(definition.findtext("vcpu") or 1)


def hostdev_element(address: str, *, managed: bool) -> Element:
    hostdev = etree.Element("hostdev", mode="subsystem", type="pci")
    hostdev.set("managed", "yes" if managed else "no")
    etree.SubElement(hostdev, "source").append(address_xml(address))
    return hostdev


def _controllers(q35: bool, root_ports: int) -> Iterator[Element]:
    yield etree.Element(
        "controller", type="pci", index="0", model="pcie-root" if q35 else "pci-root"
    )
    for index in range(1, root_ports + 1 if q35 else 1):
        port = etree.Element("controller", type="pci", index=str(index), model="pcie-root-port")
        guest_slot = f"0000:00:{1 + (index - 1) // 8:02x}.{(index - 1) % 8}"
        port.append(address_xml(guest_slot, type="pci"))
        yield port


def shares_slot(definition: Element | None, address: str) -> bool:
    """Whether the device has company in its guest slot."""
    if definition is None:
        return False
    addresses = definition.findall("devices/*/address[@type='pci']")
    slots = [address_of(each)[:-2] for each in addresses]
    own = [each.find("address") for each in assigned(definition) if source_of(each) == address]
    return any(each is not None and slots.count(address_of(each)[:-2]) > 1 for each in own)


def without(definition: Element | None, address: str) -> Element:
    after = deepcopy(definition)
    assert after is not None
    devices = after.find("devices")
    assert devices is not None
    for hostdev in assigned(after):
        if source_of(hostdev) == address:
            devices.remove(hostdev)
    return after


def assign_slots(definition: Element, *, hotplug: bool) -> None:
    """Give every hostdev without a guest address one, as libvirt does.

    A cold domain gets a new root port when none is free; a running one cannot.
    """
    controllers = definition.findall("devices/controller[@type='pci']")
    if not controllers:
        return
    _refuse_double_use(definition)
    _add_ports(definition)
    for hostdev in assigned(definition):
        if hostdev.find("address") is None:
            slot = _free_slot(definition, hotplug=hotplug)
            hostdev.append(address_xml(slot, type="pci"))


def _free_slot(definition: Element, *, hotplug: bool) -> str:
    used = {address_of(a)[:-2] for a in definition.findall("devices/*/address[@type='pci']")}
    if definition.find("devices/controller[@model='pcie-root']") is None:
        slots = (f"0000:00:{slot:02x}" for slot in range(2, 32))
        return next(slot for slot in slots if slot not in used) + ".0"
    ports = definition.findall("devices/controller[@model='pcie-root-port']")
    free = [f"0000:{int(p.get('index') or 0):02x}:00" for p in ports]
    free = [slot for slot in free if slot not in used]
    if free:
        return free[0] + ".0"
    if hotplug:
        raise failure(INTERNAL, FROM_DOMAIN, "internal error: No more available PCI slots")
    index = 1 + max((int(p.get("index") or 0) for p in ports), default=0)
    _add_port(definition, index)
    return f"0000:{index:02x}:00.0"


def _refuse_double_use(definition: Element) -> None:
    used = [address_of(a) for a in definition.findall("devices/*/address[@type='pci']")]
    if len(used) != len(set(used)):
        raise failure(XML_ERROR, FROM_DOMAIN, "Attempted double use of PCI Address")


def _add_ports(definition: Element) -> None:
    """Add the root ports up to the highest bus that a hostdev is on."""
    if definition.find("devices/controller[@model='pcie-root']") is None:
        return
    have = {int(c.get("index") or 0) for c in definition.findall("devices/controller")}
    spoken_of = [int(address_of(a)[5:7], 16) for a in _guest_addresses(definition)]
    for index in range(1, max(spoken_of, default=0) + 1):
        if index not in have:
            _add_port(definition, index)


def _guest_addresses(definition: Element) -> list[Element]:
    return [a for each in assigned(definition) if (a := each.find("address")) is not None]


def _add_port(definition: Element, index: int) -> None:
    devices = definition.find("devices")
    assert devices is not None
    attributes = {"type": "pci", "index": str(index), "model": "pcie-root-port"}
    port = etree.SubElement(devices, "controller", attributes)
    port.append(address_xml(f"0000:00:{1 + (index - 1) // 8:02x}.{(index - 1) % 8}", type="pci"))
