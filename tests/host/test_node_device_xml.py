from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import LibvirtFailedError
from hypeman_libvirt.devices.node_device import NodeDevice, PcieLink, VgpuProfile
from hypeman_libvirt.host.xml.node_device import parse_node_device
from tests.fake_xml import pci_element, show

MINIMAL = """
<device><name>pci_0000_a2_00_0</name><capability type='pci'>
  <domain>0</domain><bus>162</bus><slot>0</slot><function>0</function>
  <product id='0x27B8'/><vendor id='0x10de'/>{}
</capability></device>
"""
L4 = PciAddress(0, 0xA2, 0, 0)


def parse(more: str = "") -> NodeDevice:
    device = parse_node_device(MINIMAL.format(more))
    assert device is not None
    return device


def test_what_may_be_absent_is_none() -> None:
    assert parse() == NodeDevice("pci_0000_a2_00_0", L4, "10de", "27b8")


def test_the_own_address_is_decimal_and_others_are_hex() -> None:
    device = parse(
        "<iommuGroup number='10'>"
        "<address domain='0x0000' bus='0xa2' slot='0x10' function='0x1'/>"
        "<address domain='0x0000' bus='0x10' slot='0x00' function='0x0'/></iommuGroup>"
    )
    assert device.address == L4
    assert device.iommu_group == 10
    assert list(map(str, device.group_addresses)) == ["0000:10:00.0", "0000:a2:10.1"]


def test_group_zero_is_legal() -> None:
    assert parse("<iommuGroup number='0'/>").iommu_group == 0


@pytest.mark.parametrize("kind", ["pci-bridge", "cardbus-bridge"])
def test_bridges_are_told_by_their_capability(kind: str) -> None:
    assert parse(f"<capability type='{kind}'/>").is_bridge
    assert not parse("<capability type='vpd'/>").is_bridge


def test_functions_of_an_sr_iov_card() -> None:
    address = "<address domain='0x10000' bus='0x3b' slot='0x00' function='0x0'/>"
    virtual = parse(f"<capability type='phys_function'>{address}</capability>")
    physical = parse(f"<capability type='virt_functions' maxCount='8'>{address}</capability>")
    assert virtual.physical_function == PciAddress(0x10000, 0x3B, 0, 0)
    assert physical.virtual_functions == (PciAddress(0x10000, 0x3B, 0, 0),)


def test_the_serial_is_the_vendors_and_not_the_systems() -> None:
    fields = "<fields access='{}'><serial_number>{}</serial_number></fields>"
    vpd = fields.format("readwrite", "system") + fields.format("readonly", "MT2042X00001")
    assert parse(f"<capability type='vpd'>{vpd}</capability>").serial == "MT2042X00001"


def test_vgpu_profiles() -> None:
    device = parse(
        "<capability type='mdev_types'><type id='nvidia-222'><name>GRID T4-1B</name>"
        "<deviceAPI>vfio-pci</deviceAPI><availableInstances>16</availableInstances></type>"
        "</capability>"
    )
    assert device.vgpu_profiles == (VgpuProfile("nvidia-222", "GRID T4-1B", 16),)


def test_a_link_without_a_speed_is_not_known() -> None:
    device = parse(
        "<pci-express><link validity='cap' port='0' speed='2.5' width='16'/>"
        "<link validity='sta' width='0'/></pci-express>"
    )
    assert device.link_capability == PcieLink(2.5, 16)
    assert device.link_status is None


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<device>",
        "<device><capability type='pci'/></device>",
        MINIMAL.format("<iommuGroup number='many'/>"),
        MINIMAL.format("<class>graphics</class>"),
        "<!DOCTYPE d [<!ENTITY x 'x'>]><device><capability type='pci'>&x;</capability></device>",
        "x" * (9 * 1024 * 1024),
    ],
)
def test_what_libvirt_does_not_document_is_refused(xml: str) -> None:
    with pytest.raises(LibvirtFailedError):
        parse_node_device(xml)


def test_entities_are_never_resolved() -> None:
    document = MINIMAL.format("").replace(
        "<device>", "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/hostname'>]><device>", 1
    )
    device = parse_node_device(
        document.replace("<vendor id='0x10de'/>", "<vendor id='0x10de'>&x;</vendor>")
    )
    assert device is not None
    assert device.vendor_name is None


@given(
    st.builds(
        PciAddress,
        st.integers(0, 0xFFFFFFFF),
        st.integers(0, 0xFF),
        st.integers(0, 0x1F),
        st.integers(0, 7),
    )
)
def test_every_address_comes_through(address: PciAddress) -> None:
    device = parse_node_device(show(pci_element(str(address))))
    assert device is not None
    assert device.address == address
    assert device.node_name == address.node_device_name
