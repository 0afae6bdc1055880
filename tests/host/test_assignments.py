"""What one domain has of the host, in every kind, and domains that change while they are read."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from copy import deepcopy

import pytest

from hypeman_libvirt.devices.address import MdevUuid, PciAddress
from hypeman_libvirt.devices.domain import Assignment
from hypeman_libvirt.devices.errors import LibvirtFailedError
from hypeman_libvirt.host.assignments import (
    DomainReader,
    DomainRecord,
    list_assignments,
)
from hypeman_libvirt.host.connection import Connection
from hypeman_libvirt.host.libvirt_host import LibvirtHost
from hypeman_libvirt.host.xml.guest_devices import GuestDevice, PathSource, PciSource
from tests.fake_host import FakeHost

L4, NIC, VF = (PciAddress.parse(f"0000:{each}") for each in ("a2:00.0", "3b:00.0", "3b:00.3"))
NVME, HBA = PciAddress.parse("0000:01:00.0"), PciAddress.parse("0000:02:00.0")
VGPU = MdevUuid("c0b26072-dd1b-4340-84fe-bf338c510818")
XML = """
<domain type='kvm'><name>{name}</name><uuid>{uuid}</uuid>
<os><type machine='q35'>hvm</type></os><devices>{devices}</devices></domain>
"""
SOURCE = "<source><address domain='0x0000' bus='0x{:02x}' slot='0x00' function='0x{}'/></source>"
EVERY_KIND = (
    f"<hostdev mode='subsystem' type='pci' managed='yes'>{SOURCE.format(0xA2, 0)}</hostdev>"
    f"<interface type='hostdev' managed='yes'>{SOURCE.format(0x3B, 3)}</interface>"
    "<disk type='nvme' device='disk'><source type='pci' managed='yes' namespace='1'>"
    "<address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source>"
    "<target dev='vdb'/></disk>"
    "<disk type='block' device='disk'><source dev='/dev/sda1'/><target dev='vda'/></disk>"
    f"<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='{VGPU}'/>"
    "</source></hostdev>"
)


def read(fake_host: FakeHost, name: str) -> DomainRecord:
    connection = Connection(fake_host.uri)
    record = DomainReader(connection).read_named(name)
    connection.close()
    assert record is not None
    return record


def define(fake_host: FakeHost, devices: str) -> DomainRecord:
    fake_host.add_domain_xml(XML.format(name="vm", uuid=uuid.uuid4(), devices=devices))
    return read(fake_host, "vm")


def trace(device: GuestDevice) -> set[PciAddress] | None:
    """Say where things lie on this host."""
    if isinstance(device.source, PciSource):
        return {device.source.address}
    if isinstance(device.source, PathSource):
        return {HBA}
    return {L4}  # the parent of every mediated device


def shown(assignments: Sequence[Assignment]) -> set[tuple[str, str, bool, str | None]]:
    return {(str(each.device), each.kind, each.direct, each.via) for each in assignments}


def test_every_kind_is_traced_to_its_device(fake_host: FakeHost) -> None:
    assert shown(list_assignments(define(fake_host, EVERY_KIND), trace)) == {
        (str(L4), "hostdev", True, None),
        (str(VF), "interface", True, None),
        (str(NVME), "nvme_disk", True, None),
        (str(HBA), "block_disk", False, "disk vda on /dev/sda1"),
        (str(VGPU), "mdev", True, None),
        (str(L4), "mdev", False, f"mdev {VGPU}"),
    }


def test_what_cannot_be_traced_is_no_assignment(fake_host: FakeHost) -> None:
    assignments = list_assignments(define(fake_host, EVERY_KIND), lambda _: None)
    assert {each.kind for each in assignments} == {"hostdev", "interface", "mdev"}


def test_now_and_after_the_next_start_are_told_apart(fake_host: FakeHost) -> None:
    fake_host.virsh_attach("vm-on", str(L4), config=False)
    fake_host.virsh_attach("vm-on", str(NIC))
    fake_host.virsh_detach("vm-on", str(NIC), config=False)
    assignments = list_assignments(read(fake_host, "vm-on"), trace)
    assert {(each.device, each.live, each.persistent) for each in assignments} == {
        (L4, True, False),
        (NIC, False, True),
    }


def test_a_transient_domain_that_is_made_persistent_meanwhile_has_its_device(
    fake_host: FakeHost,
) -> None:
    """And ends at once, so that only its definition is there between two calls."""
    guest = fake_host.add_domain("t", hostdevs=[str(L4)], running=True, persistent=False)
    definition = deepcopy(guest.live)
    assert definition is not None
    del definition.attrib["id"]

    def define_and_end(call: str) -> None:
        if call == "domainXMLDesc":
            guest.config, guest.live = definition, None

    fake_host.before_call = define_and_end
    (assignment,) = list_assignments(read(fake_host, "t"), trace)
    assert (assignment.device, assignment.live, assignment.persistent) == (L4, False, True)


def test_a_domain_made_persistent_after_its_live_definition_was_read_has_both(
    fake_host: FakeHost,
) -> None:
    guest = fake_host.add_domain("t", hostdevs=[str(L4)], running=True, persistent=False)

    def make_persistent(call: str) -> None:
        if call == "isPersistent":
            guest.config = guest.live

    fake_host.before_call = make_persistent
    (assignment,) = list_assignments(read(fake_host, "t"), trace)
    assert (assignment.live, assignment.persistent) == (True, True)


def test_one_domain_is_asked_for_alone(fake_host: FakeHost, libvirt_host: LibvirtHost) -> None:
    for number in range(20):
        fake_host.add_domain(f"vm-{number}")
    fake_host.virsh_attach("vm-on", str(L4))
    domain = libvirt_host.find_domain("vm-on")
    assert domain is not None
    before = fake_host.calls.copy()
    (assignment,) = libvirt_host.read_domain_assignments(domain)
    made = fake_host.calls - before
    assert (assignment.device, assignment.domain) == (L4, domain)
    assert made == {"lookupByUUIDString": 1, "domainXMLDesc": 2, "isPersistent": 1, "state": 1}


def test_a_domain_that_is_gone_has_nothing(fake_host: FakeHost, libvirt_host: LibvirtHost) -> None:
    domain = libvirt_host.find_domain("vm-off")
    assert domain is not None
    fake_host.virsh_undefine("vm-off")
    assert libvirt_host.read_domain_assignments(domain) == ()


@pytest.mark.parametrize("instance", ["vm-on", "UUID"])
def test_a_domain_is_found_without_reading_others(
    fake_host: FakeHost, libvirt_host: LibvirtHost, instance: str
) -> None:
    for number in range(20):
        fake_host.add_domain(f"vm-{number}")
    key = fake_host.guest("vm-on").uuid.upper() if instance == "UUID" else instance
    before = fake_host.calls.copy()
    domain = libvirt_host.find_domain(key)
    made = fake_host.calls - before
    assert domain is not None
    assert domain.name == "vm-on"
    assert made["domainXMLDesc"] == 2
    assert "listAllDomains" not in made


def test_an_instance_id_is_found_again_without_reading_all(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.add_domain("vm", instance_id="i-1")
    assert libvirt_host.find_domain("i-1") == libvirt_host.find_domain("vm")
    before = fake_host.calls["listAllDomains"]
    assert libvirt_host.find_domain("i-1") == libvirt_host.find_domain("vm")
    assert fake_host.calls["listAllDomains"] == before


def test_an_instance_id_that_went_to_another_domain_is_found_there(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.add_domain("old", instance_id="i-1")
    libvirt_host.find_domain("i-1")
    fake_host.virsh_undefine("old")
    fake_host.add_domain("new", instance_id="i-1")
    assert libvirt_host.find_domain("i-1") == libvirt_host.find_domain("new")


@pytest.mark.parametrize("instance", ["vm\0on", "vm\non", "\ud800"])
def test_what_can_be_no_name_is_no_domain(libvirt_host: LibvirtHost, instance: str) -> None:
    assert libvirt_host.find_domain(instance) is None


def test_a_domain_that_cannot_be_read_is_not_taken_for_gone(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.virsh_attach("vm-off", str(L4), live=False)
    fake_host.refuse("domainXMLDesc", 38)
    with pytest.raises(LibvirtFailedError):
        libvirt_host.read_assignments([L4])


def test_a_domain_that_leaves_while_all_are_read_is_left_out(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.virsh_attach("vm-off", str(L4), live=False)
    fake_host.refuse("domainXMLDesc", 42, times=1)
    assert len(libvirt_host.list_domains()) == 1
