from __future__ import annotations

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.domain import MetadataEntry
from hypeman_libvirt.devices.errors import LibvirtFailedError
from hypeman_libvirt.host.xml.domain import (
    DomainXml,
    build_hostdev,
    build_metadata,
    parse_metadata,
)

L4 = PciAddress.parse("0000:a2:00.0")
VF = PciAddress.parse("10000:3b:00.3")
ADDRESS = "<address domain='0x{:04x}' bus='0x{:02x}' slot='0x00' function='0x{}'/>"


def domain(devices: str = "", more: str = "") -> DomainXml:
    return DomainXml(f"<domain><name>vm</name>{more}<devices>{devices}</devices></domain>")


def test_a_hostdev_holds_its_source_and_not_its_guest_address() -> None:
    vm = domain(
        "<hostdev mode='subsystem' type='pci' managed='no'><source>"
        + ADDRESS.format(0, 0xA2, 0)
        + "</source><address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0'/>"
        "</hostdev>"
    )
    (held,) = vm.held
    assert (held.device, held.managed, held.guest_address) == (L4, False, PciAddress(0, 5, 0, 0))


@pytest.mark.parametrize(
    "interface",
    [
        "<interface type='hostdev' managed='yes'><source>{}</source></interface>",
        "<interface type='network'><actual type='hostdev'><source>{}</source></actual></interface>",
    ],
)
def test_an_interface_can_hold_a_virtual_function(interface: str) -> None:
    vm = domain(interface.format(ADDRESS.format(0x10000, 0x3B, 3)))
    assert [held.device for held in vm.held] == [VF]
    assert vm.held[0].xml.startswith("<interface")
    assert "<interface" not in vm.without([VF])


def test_other_hostdevs_hold_no_pci_function() -> None:
    source = f"<source>{ADDRESS.format(0, 1, 0)}</source>"
    vm = domain(
        f"<hostdev mode='subsystem' type='usb'>{source}</hostdev>"
        f"<hostdev mode='subsystem' type='mdev'>{source}</hostdev>"
        f"<hostdev mode='capabilities' type='misc'>{source}</hostdev>"
    )
    assert list(vm.held) == []


def test_a_source_that_is_no_address_is_an_error_and_not_nothing() -> None:
    source = "<source><address domain='x'/></source>"
    vm = domain(f"<hostdev mode='subsystem' type='pci'>{source}</hostdev>")
    with pytest.raises(LibvirtFailedError, match="vm"):
        assert vm.held


def test_devices_come_and_go_in_a_definition() -> None:
    vm = domain("<memballoon model='none'/>")
    after = DomainXml(vm.with_hostdevs([build_hostdev(L4), build_hostdev(VF)]))
    assert [held.device for held in after.held] == [L4, VF]
    rest = after.without([L4])
    assert [held.device for held in DomainXml(rest).held] == [VF]
    assert "memballoon" in rest
    assert list(vm.held) == []


def test_a_hostdev_is_managed_and_keeps_a_domain_above_ffff() -> None:
    xml = build_hostdev(VF, PciAddress(0, 1, 0, 3), multifunction=True)
    (held,) = domain(xml).held
    assert (held.device, held.managed, held.guest_address) == (VF, True, PciAddress(0, 1, 0, 3))
    assert 'multifunction="on"' in xml


def test_the_instance_id_is_the_control_planes() -> None:
    instance = "<hypeman:instance xmlns:hypeman='urn:hypeman:libvirt:instance:1' id='i-1'/>"
    assert domain(more=f"<metadata>{instance}</metadata>").instance_id == "i-1"
    assert domain(more="<metadata><instance id='i-1'/></metadata>").instance_id is None


@pytest.mark.parametrize(
    ("nodeset", "nodes"), [("1", {1}), ("0-3,^2", {0, 1, 3}), ("0, 2", {0, 2}), ("", set())]
)
def test_numa_nodes(nodeset: str, nodes: set[int]) -> None:
    more = f"<numatune><memory mode='strict' nodeset='{nodeset}'/></numatune>"
    assert domain(more=more).numa_nodes == nodes


def test_metadata_comes_back_as_it_was_written() -> None:
    entries = [MetadataEntry("a", "l4 & 'x' <gpu>", L4, (VF, L4)), MetadataEntry("b", "vf", VF)]
    assert parse_metadata(build_metadata(entries)) == entries


@pytest.mark.parametrize(
    "xml",
    [
        "<devices><device id='a'/></devices>",
        "<devices><device id='a' name='n' pci_address='here'/></devices>",
        "<devices><device id='a' name='n' pci_address='0000:a2:00.0' bound='a2:0'/></devices>",
        "<devices>",
    ],
)
def test_metadata_that_is_none_of_ours_is_no_fault_of_the_client(xml: str) -> None:
    with pytest.raises(LibvirtFailedError):
        parse_metadata(xml)
