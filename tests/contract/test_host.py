"""The port Host, the same on the fake and on libvirt's test driver."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import libvirt
import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.domain import Domain, MetadataEntry
from hypeman_libvirt.devices.errors import DeviceNotFoundError, InUseError
from hypeman_libvirt.host.libvirt_host import LibvirtHost
from hypeman_libvirt.resources.model import Guest, Network, Platform, StoragePool

L4 = PciAddress.parse("0000:a2:00.0")
GPU = PciAddress.parse("0000:41:00.0")
AUDIO = PciAddress.parse("0000:41:00.1")
HELD_GPU = PciAddress.parse("0000:c1:00.0")
VF = PciAddress.parse("0000:3b:00.3")
VMD_DISK = PciAddress.parse("10000:e1:00.0")
NOWHERE = PciAddress.parse("0000:ff:1f.7")


def domain(host: LibvirtHost, name: str) -> Domain:
    found = host.find_domain(name)
    assert found is not None
    return found


def test_the_seeds_gpu(host: LibvirtHost) -> None:
    gpu = host.node_device(L4)
    assert gpu is not None
    assert (gpu.vendor_id, gpu.device_id, gpu.class_code) == ("10de", "27b8", 0x030200)
    assert (gpu.driver, gpu.iommu_group, gpu.group_addresses) == ("nvidia", 82, (L4,))
    assert (gpu.vendor_name, gpu.device_name) == ("NVIDIA Corporation", "AD104GL [L4]")


def test_every_function_is_listed_by_address(host: LibvirtHost) -> None:
    devices = host.list_node_devices()
    addresses = [each.address for each in devices]
    assert len(addresses) == 17
    assert addresses == sorted(addresses)
    assert addresses[-1] == VMD_DISK


def test_group_zero_is_a_group_and_no_group_is_none(host: LibvirtHost) -> None:
    groups = {str(each.address): each.iommu_group for each in host.list_node_devices()}
    assert groups["0000:65:00.0"] == 0
    assert groups["10000:e1:00.0"] is None


def test_virtual_functions_point_to_each_other(host: LibvirtHost) -> None:
    card = host.node_device(PciAddress.parse("0000:3b:00.0"))
    virtual = host.node_device(VF)
    assert card is not None
    assert virtual is not None
    assert VF in card.virtual_functions
    assert virtual.physical_function == card.address


def test_what_is_not_there_is_none(host: LibvirtHost) -> None:
    assert host.node_device(NOWHERE) is None
    assert host.node_device_named("pci_0000_ff_1f_7") is None
    assert host.node_device_named("computer") is None
    assert host.node_device_named("pci\0") is None
    assert host.node_device_named("Grafikkarte-ä") is None
    assert host.find_domain("nobody") is None


def test_a_domain_is_found_by_uuid_name_and_instance_id(host: LibvirtHost) -> None:
    inference = domain(host, "inference")
    assert domain(host, inference.uuid.upper()) == inference
    assert domain(host, "kq3w9zt5m2x7c8v1b4n6a0sd") == inference
    assert inference.instance == "kq3w9zt5m2x7c8v1b4n6a0sd"
    assert (inference.state, inference.active, inference.persistent) == ("running", True, True)
    assert domain(host, "training").state == "shut off"


def test_holders_say_who_has_what(host: LibvirtHost) -> None:
    assignments = host.list_assignments()
    assert set(assignments) == {HELD_GPU, VF}
    (running,) = assignments[HELD_GPU]
    assert (running.domain.name, running.live, running.persistent) == ("inference", True, True)
    (defined,) = assignments[VF]
    assert (defined.domain.name, defined.live, defined.persistent) == ("edge", False, True)


def test_a_running_holder_comes_before_one_that_is_only_defined(host: LibvirtHost) -> None:
    with host.changes() as changes:
        changes.attach(domain(host, "training"), [HELD_GPU])
    names = [assignment.domain.name for assignment in host.list_assignments()[HELD_GPU]]
    assert names == ["inference", "training"]


def test_bind_and_unbind(host: LibvirtHost) -> None:
    with host.changes() as changes:
        changes.bind(GPU)
        bound = host.node_device(GPU)
        changes.unbind(GPU)
        unbound = host.node_device(GPU)
    assert bound is not None
    assert unbound is not None
    assert (bound.driver, unbound.driver) == ("vfio-pci", "nvidia")


def test_a_device_that_a_running_domain_uses_stays_where_it_is(host: LibvirtHost) -> None:
    with host.changes() as changes, pytest.raises(InUseError):
        changes.unbind(HELD_GPU)
    held = host.node_device(HELD_GPU)
    assert held is not None
    assert held.driver == "vfio-pci"


def test_what_is_not_there_cannot_be_bound(host: LibvirtHost) -> None:
    with host.changes() as changes, pytest.raises(DeviceNotFoundError, match=str(NOWHERE)):
        changes.bind(NOWHERE)


def test_a_group_goes_into_a_definition_and_out_again(host: LibvirtHost) -> None:
    training = domain(host, "training")
    with host.changes() as changes:
        changes.attach(training, [GPU, AUDIO])
        assert {GPU, AUDIO} < set(host.list_assignments())
        changes.detach(training, [GPU, AUDIO])
    assert not {GPU, AUDIO} & set(host.list_assignments())


@pytest.mark.parametrize(("unmanaged", "expected"), [((), [True, True]), ([GPU], [False, True])])
def test_what_stays_on_its_driver_is_written_unmanaged(
    host: LibvirtHost, unmanaged: Sequence[PciAddress], expected: list[bool]
) -> None:
    training = domain(host, "training")
    with host.changes() as changes:
        changes.attach(training, [GPU, AUDIO], unmanaged)
        assignments = host.list_assignments()
        assert [assignments[each][0].managed for each in (GPU, AUDIO)] == expected
        changes.detach(training, [GPU, AUDIO])


def test_a_definition_has_a_device_at_another_address(host: LibvirtHost) -> None:
    training = domain(host, "training")
    with host.changes() as changes:
        changes.attach(training, [L4])
        changes.move_devices(training, {L4: NOWHERE, GPU: L4})
        held = {each.device for each in host.read_domain_assignments(training)}
        assert NOWHERE in held
        assert L4 not in held
        changes.move_devices(training, {NOWHERE: L4})
        assert L4 in {each.device for each in host.read_domain_assignments(training)}


def test_a_running_domain_has_the_new_address_at_its_next_start(host: LibvirtHost) -> None:
    (running, *_) = [each for each in host.list_assignments()[HELD_GPU] if each.live]
    with host.changes() as changes:
        changes.move_devices(running.domain, {HELD_GPU: L4})
    held = host.read_domain_assignments(running.domain)
    assert {(each.device, each.live, each.persistent) for each in held} >= {
        (HELD_GPU, True, False),
        (L4, False, True),
    }


def test_attaching_and_detaching_twice_changes_nothing(host: LibvirtHost) -> None:
    training = domain(host, "training")
    with host.changes() as changes:
        changes.attach(training, [L4])
        changes.attach(training, [L4])
        assert len(host.list_assignments()[L4]) == 1
        changes.detach(training, [L4])
        changes.detach(training, [L4])
    assert L4 not in host.list_assignments()


def test_a_virtual_function_in_an_interface_is_detached_too(host: LibvirtHost) -> None:
    with host.changes() as changes:
        changes.detach(domain(host, "edge"), [VF])
    assert VF not in host.list_assignments()


@pytest.mark.parametrize("name", ["training", "inference"])
def test_metadata_is_ours_alone(host: LibvirtHost, name: str) -> None:
    entry = MetadataEntry("tz4a98xxat96iws9zmbrgj3a", "l4 & <gpu>", L4, (GPU, AUDIO))
    before = domain(host, name)
    with host.changes() as changes:
        assert list(host.read_metadata(before)) == []
        changes.write_metadata(before, [entry])
        assert list(host.read_metadata(before)) == [entry]
        assert domain(host, name) == before
        changes.write_metadata(before, [])
    assert list(host.read_metadata(before)) == []
    assert domain(host, name) == before


def test_an_event_wakes_the_subscriber(host: LibvirtHost) -> None:
    woken = threading.Event()
    host.subscribe(woken.set)
    host.ping()
    with host.changes() as changes:
        changes.write_metadata(domain(host, "training"), [MetadataEntry("i", "n", L4)])
    assert woken.wait(10)


def test_the_key_is_one_for_the_host(host: LibvirtHost, uri: str) -> None:
    uuid = libvirt.open(uri).getCapabilities().partition("<uuid>")[2].partition("</uuid>")[0]
    assert host.key() == (uuid or uri)
    assert host.key() == host.key()


def test_what_the_host_has_and_what_its_domains_took(host: LibvirtHost) -> None:
    has = host.resources.read()
    assert (has.cpus, has.memory, has.link_speed) == (64, 256 * 1024**3, 12_500_000_000)
    assert has.pools == [StoragePool("dir", 100 * 1024**3, 0, 100 * 1024**3)]
    assert has.guests == [
        Guest("builder", "0d2f6c58-93b4-4e1a-8a77-5c9e1f3b7d24", 8, 16 * 1024**3),
        Guest("inference", "kq3w9zt5m2x7c8v1b4n6a0sd", 8, 64 * 1024**3),
    ]


def test_what_kind_of_host_it_is(host: LibvirtHost) -> None:
    platform = host.resources.platform()
    network = Network(joins_guests=True, gateway="192.168.122.1", subnet="192.168.122.0/24")
    assert platform in {
        Platform(os.uname().machine, ("test",), network),  # the test driver runs here
        Platform("x86_64", ("kvm", "qemu"), network),
    }
