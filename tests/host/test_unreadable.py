"""A node device that libvirt cannot describe, or describes in what is no XML."""

from __future__ import annotations

import logging

import pytest
from lxml import etree

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import DeviceError, LibvirtDeniedError, LibvirtFailedError
from hypeman_libvirt.devices.node_device import VgpuProfile
from hypeman_libvirt.host.connection import Connection
from hypeman_libvirt.host.libvirt_host import LibvirtHost
from hypeman_libvirt.host.node_devices import NodeDevices
from hypeman_libvirt.host.xml.node_device import parse_node_device
from tests.fake_host import FakeHost
from tests.host.test_cached_host import CachedWorld, cached

__all__ = ["cached"]

L4, NIC = (PciAddress.parse(f"0000:{each}") for each in ("a2:00.0", "3b:00.0"))
LOADED = PciAddress.parse("0000:66:00.0")
HARMFUL = [
    "R&D",
    "a < b",
    "<b>",
    "</serial_number>",
    "</fields></capability><iommuGroup number='1'/>",
    "&x;",
    "<!-- ",
    "<![CDATA[",
    "&" * 255,
]


@pytest.fixture
def careless(fake_host: FakeHost) -> FakeHost:
    """The host with a card whose vital product data are no XML."""
    fake_host.add_pci("0000:66:00.0", group=66, driver="ice", numa=1, serial="R&D <7>")
    return fake_host


def test_the_fake_prints_what_no_strict_parser_takes(careless: FakeHost) -> None:
    connection = Connection(careless.uri)
    xml = connection.read(
        "nodeDeviceLookupByName", lambda c: c.nodeDeviceLookupByName("pci_0000_66_00_0").XMLDesc(0)
    )
    connection.close()
    with pytest.raises(etree.XMLSyntaxError):
        etree.fromstring(xml)


def test_a_card_whose_product_data_are_no_xml_stays_without_them(
    careless: FakeHost, libvirt_host: LibvirtHost
) -> None:
    found = libvirt_host.node_device(LOADED)
    assert found is not None
    assert (found.iommu_group, found.driver, found.numa_node) == (66, "ice", 1)
    assert found.group_addresses == (LOADED,)
    assert found.serial is None
    assert found in libvirt_host.list_node_devices()
    careless.set_driver("0000:66:00.0", "vfio-pci")
    moved = libvirt_host.node_device(LOADED)
    assert moved is not None
    assert moved.driver == "vfio-pci"


@pytest.mark.parametrize("said", HARMFUL)
def test_nothing_that_a_card_says_becomes_a_fact_of_another_kind(
    fake_host: FakeHost, libvirt_host: LibvirtHost, said: str
) -> None:
    fake_host.add_pci("0000:66:00.0", group=66, driver="ice", numa=1, serial=said)
    found = libvirt_host.node_device(LOADED)
    assert found is not None
    assert (found.iommu_group, found.numa_node, found.serial) == (66, 1, None)


def test_it_is_logged_once(
    careless: FakeHost, libvirt_host: LibvirtHost, caplog: pytest.LogCaptureFixture
) -> None:
    for driver in ("vfio-pci", "ice", None):
        careless.set_driver("0000:66:00.0", driver)
        libvirt_host.list_node_devices()
        libvirt_host.node_device(LOADED)
    assert caplog.text.count("the vital product data of node device pci_0000_66_00_0") == 1
    assert "cannot be parsed" not in caplog.text


def test_entities_are_not_resolved_while_recovering() -> None:
    xml = (
        "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/hostname'>]><device><name>n</name>"
        "<capability type='pci'><domain>0</domain><bus>1</bus><slot>0</slot><function>0</function>"
        "<product id='0x1'>&x;</product><vendor id='0x2'>a & b &x;</vendor></capability></device>"
    )
    found = parse_node_device(xml)
    assert found is not None
    assert (found.device_name, found.vendor_name) == (None, "a  b")


@pytest.mark.parametrize(("code", "domain"), [(1, 22), (1, 0), (88, 0), (9, 22)])
def test_one_that_cannot_be_read_is_left_out_and_named_once(
    fake_host: FakeHost,
    libvirt_host: LibvirtHost,
    caplog: pytest.LogCaptureFixture,
    code: int,
    domain: int,
) -> None:
    fake_host.pci("0000:a2:00.0").refusal = (code, domain)
    for _ in range(3):
        listed = [each.address for each in libvirt_host.list_node_devices()]
        assert NIC in listed
        assert L4 not in listed
    assert caplog.text.count("node device pci_0000_a2_00_0 cannot be read") == 1
    with pytest.raises(DeviceError):
        libvirt_host.node_device(L4)
    fake_host.pci("0000:a2:00.0").refusal = None
    assert L4 in [each.address for each in libvirt_host.list_node_devices()]


def test_where_not_one_can_be_read_that_is_the_answer(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    for each in fake_host.nodes.values():
        each.refusal = (88, 0)
    with pytest.raises(LibvirtDeniedError):
        libvirt_host.list_node_devices()


def test_what_the_host_lives_on_is_not_judged_without_it(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    node = libvirt_host.node_device(NIC)
    assert node is not None
    fake_host.nodes[fake_host.add_child("0000:3b:00.0", "net", "ens9")].refusal = (1, 22)
    with pytest.raises(LibvirtFailedError):
        libvirt_host.read_usage([node.address], [node])


def test_in_the_cache_the_others_answer_while_it_lasts(
    cached: CachedWorld, caplog: pytest.LogCaptureFixture
) -> None:
    cached.host.pci("0000:a2:00.0").refusal = (1, 22)
    cached.host.set_driver("0000:a2:00.0", "vfio-pci")  # so that it is read again
    for _ in range(2):
        assert cached.nodes.find(NIC) is not None
        listed = [each.address for each in cached.nodes.list_devices()]
        assert NIC in listed
        assert L4 not in listed
    with caplog.at_level(logging.WARNING), pytest.raises(LibvirtFailedError):
        cached.nodes.find(L4)
    cached.host.pci("0000:a2:00.0").refusal = None
    found = cached.nodes.find(L4)
    assert found is not None
    assert found.driver == "vfio-pci"
    assert L4 in [each.address for each in cached.nodes.list_devices()]


def test_in_the_cache_capacity_follows_the_vgpus(cached: CachedWorld) -> None:
    host, parent = cached.host, PciAddress.parse("0000:67:00.0")
    vgpu = [("nvidia-222", "GRID T4-1B", 16)]
    gpu = host.add_pci("0000:67:00.0", driver="nvidia", group=67, vgpu=vgpu)
    cached.settle("node device", gpu.name)
    assert [each.available for each in profiles_of(cached, parent)] == [16]
    available = gpu.element.find(".//availableInstances")
    assert available is not None
    available.text = "15"
    mdev = "mdev_4b20d080_1b54_4048_85b3_a6a62d165c01_0000_67_00_0"
    host.add_node(f"<device><name>{mdev}</name><capability type='mdev'/></device>")
    cached.settle("node device", mdev)
    assert [each.available for each in profiles_of(cached, parent)] == [15]


def profiles_of(cached: CachedWorld, address: PciAddress) -> tuple[VgpuProfile, ...]:
    found = cached.nodes.find(address)
    assert found is not None
    return found.vgpu_profiles


def test_a_listing_fails_once_and_is_asked_again(fake_host: FakeHost) -> None:
    connection = Connection(fake_host.uri)
    fake_host.refuse("XMLDesc", 1, 0, times=1)
    assert len(NodeDevices(connection).list_devices()) == len(list(fake_host.functions()))
    connection.close()


def test_a_bridge_that_cannot_be_read_hides_no_device_behind_it(fake_host: FakeHost) -> None:
    card = fake_host.add_pci("0000:66:00.0", group=66, parent="pci_0000_a1_01_0")
    for path in card.element.findall("path"):
        card.element.remove(path)
    fake_host.pci("0000:a1:01.0").refusal = (1, 22)
    connection = Connection(fake_host.uri)
    nodes = NodeDevices(connection)
    assert LOADED in [each.address for each in nodes.list_devices()]
    found = nodes.find(LOADED)
    assert found is not None
    assert found.topology is None  # and not one that would make it another card
    connection.close()
