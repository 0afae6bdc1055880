"""The topology of a PCI function: from libvirt's path, or from parent to parent."""

from __future__ import annotations

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.host.topology import topology_by_parents, topology_of_path
from hypeman_libvirt.host.xml.node_device import parse_node_device


@pytest.mark.parametrize(
    ("path", "topology"),
    [
        ("/sys/devices/pci0000:00/0000:00:08.0/0000:02:00.0", "pci0000:00/08.0/00.0"),
        ("/sys/devices/pci0000:80/0000:80:1f.4", "pci0000:80/1f.4"),
        (
            "/sys/devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0",
            "pci0000:00/0e.0/pci10000:e0/06.0/00.0",
        ),
        (
            "/sys/devices/platform/40000000.pcie/pci0000:00/0000:00:01.0",
            "platform/40000000.pcie/pci0000:00/01.0",
        ),
        ("/sys/devices/pci0000:00/0000:00:08.0/net/eth0", None),
        ("/nowhere/0000:00:08.0", None),
        (None, None),
    ],
)
def test_a_path_without_its_bus_numbers(path: str | None, topology: str | None) -> None:
    assert topology_of_path(path) == topology


def _node(address: str, parent: str | None) -> NodeDevice:
    place = PciAddress.parse(address)
    return NodeDevice(place.node_device_name, place, "8086", "0001", parent=parent)


def test_parents_give_what_the_path_would() -> None:
    port = _node("0000:00:08.0", "computer")
    known = {port.node_name: port}
    card = _node("0000:02:00.0", port.node_name)
    assert topology_by_parents(card, known.get) == "pci0000:00/08.0/00.0"
    assert topology_by_parents(port, known.get) == "pci0000:00/08.0"


def test_a_loop_of_parents_ends() -> None:
    one, other = _node("0000:02:00.0", "pci_0000_03_00_0"), _node("0000:03:00.0", None)
    known = {"pci_0000_03_00_0": one, other.node_name: one}
    assert topology_by_parents(one, known.get) is not None


def test_libvirt_s_xml_says_path_and_parent() -> None:
    node = parse_node_device(
        "<device><name>pci_0000_02_00_0</name>"
        "<path>/sys/devices/pci0000:00/0000:00:08.0/0000:02:00.0</path>"
        "<parent>pci_0000_00_08_0</parent><capability type='pci'><domain>0</domain><bus>2</bus>"
        "<slot>0</slot><function>0</function><product id='0x0001'/><vendor id='0x8086'/>"
        "</capability></device>"
    )
    assert node is not None
    assert (node.parent, node.topology) == ("pci_0000_00_08_0", "pci0000:00/08.0/00.0")
