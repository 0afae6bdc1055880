"""Vital product data that libvirt prints as they are: up to 9.0 that is no XML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hypeman_libvirt.devices.address import PciAddress
from tests.contract.conftest import HOST_XML

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost

CARD = """
<device>
  <name>pci_0000_66_00_0</name>
  <path>/sys/devices/pci0000:66/0000:66:00.0</path>
  <parent>computer</parent>
  <driver><name>ice</name></driver>
  <capability type='pci'>
    <class>0x020000</class>
    <domain>0</domain><bus>102</bus><slot>0</slot><function>0</function>
    <product id='0x1592'>E810</product>
    <vendor id='0x8086'>Intel</vendor>
    <capability type='vpd'>
      <name>a card</name>
      <fields access='readonly'><serial_number>R&amp;D &lt;7&gt;</serial_number></fields>
    </capability>
    <iommuGroup number='66'>
      <address domain='0x0000' bus='0x66' slot='0x00' function='0x0'/>
    </iommuGroup>
    <numa node='1'/>
  </capability>
</device>
"""


@pytest.fixture
def host_xml(tmp_path: Path) -> Path:
    """The demo host with that card."""
    file = tmp_path / "host.xml"
    file.write_text(HOST_XML.read_text().replace("</node>", f"{CARD}</node>"))
    return file


def test_the_card_is_there(host: LibvirtHost) -> None:
    found = host.node_device(PciAddress.parse("0000:66:00.0"))
    assert found is not None
    assert (found.driver, found.iommu_group, found.numa_node) == ("ice", 66, 1)
    assert found.serial in {None, "R&D <7>"}  # a libvirt that escapes it keeps it
    assert found in host.list_node_devices()
