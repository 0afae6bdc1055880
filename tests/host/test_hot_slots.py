"""Where in a running guest a device can go."""

from __future__ import annotations

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.host.xml.domain import DomainXml, build_hostdev
from hypeman_libvirt.host.xml.guest_slots import list_hot_slots
from tests.fake_xml import domain_element, parse, show

NIC = PciAddress.parse("0000:3b:00.0")


def running(machine: str = "pc-q35-7.2") -> DomainXml:
    return DomainXml(show(domain_element("vm", machine=machine, root_ports=3)))


def test_every_free_root_port_takes_one_device() -> None:
    second = PciAddress(0, 2, 0, 0)
    live = DomainXml(running().with_hostdevs([build_hostdev(NIC, second)]))
    assert list(list_hot_slots(live)) == [PciAddress(0, 1, 0, 0), PciAddress(0, 3, 0, 0)]


def test_a_root_port_that_refuses_hot_plug_is_left_out() -> None:
    live = running()
    second = live.root.findall("devices/controller")[2]
    second.append(parse("<target hotplug='off'/>"))
    assert list(list_hot_slots(live)) == [PciAddress(0, 1, 0, 0), PciAddress(0, 3, 0, 0)]


def test_an_i440fx_guest_has_none_and_libvirt_finds_a_slot_itself() -> None:
    assert not list(list_hot_slots(running("pc-i440fx-7.2")))
