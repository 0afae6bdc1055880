"""Stories of attach and detach: into domains and out of them."""

from __future__ import annotations

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.domain import MetadataEntry
from hypeman_libvirt.devices.model import Device
from hypeman_libvirt.host.libvirt_host import LibvirtHost
from tests.devices.test_bind import ALONE, AUDIO, GPU, NIC, refusal, register
from tests.fake_host import FakeHost
from tests.world import OPERATOR, World


def attach(world: World, reference: str, instance: str, scope: str = "device") -> Device:
    return world.service.attach(reference, instance, scope, OPERATOR)  # type: ignore[arg-type]


def test_a_shut_off_domain_gets_the_device_at_its_next_start(
    world: World, fake_host: FakeHost
) -> None:
    register(world, ALONE)
    device = attach(world, ALONE, "vm-off")
    assert device.assignment is not None
    assert device.assignment.persistent
    assert device.assignment.managed
    assert fake_host.driver(ALONE) == "nvidia"
    fake_host.virsh_start("vm-off")
    assert fake_host.driver(ALONE) == "vfio-pci"
    fake_host.virsh_destroy("vm-off")
    assert fake_host.driver(ALONE) == "nvidia"


def test_a_running_domain_gets_it_at_once_and_for_good(world: World, fake_host: FakeHost) -> None:
    register(world, ALONE)
    uuid = fake_host.guest("vm-on").uuid
    device = attach(world, ALONE, uuid)
    assert device.assignment is not None
    assert (device.assignment.live, device.assignment.persistent) == (True, True)
    assert device.assignment.domain.uuid == uuid
    assert fake_host.driver(ALONE) == "vfio-pci"
    assert world.service.detach(ALONE, OPERATOR).assignment is None
    assert fake_host.driver(ALONE) == "nvidia"


def test_a_group_goes_into_a_running_domain_and_comes_back_whole(
    world: World, fake_host: FakeHost
) -> None:
    register(world, GPU)
    attach(world, GPU, "vm-on", "group")
    assert (fake_host.driver(GPU), fake_host.driver(AUDIO)) == ("vfio-pci", "vfio-pci")
    world.service.detach(GPU, OPERATOR)
    assert (fake_host.driver(GPU), fake_host.driver(AUDIO)) == ("nvidia", "snd_hda_intel")


def test_a_conventional_audio_function_goes_into_a_running_domain_too(
    world: World, fake_host: FakeHost
) -> None:
    fake_host.is_conventional(AUDIO)
    register(world, GPU)
    device = attach(world, GPU, "vm-on", "group")
    assert device.assignment is not None
    assert device.assignment.live
    assert fake_host.driver(AUDIO) == "vfio-pci"


def test_a_group_in_a_definition_is_one_slot_with_functions_as_on_the_host(
    world: World, fake_host: FakeHost
) -> None:
    register(world, GPU)
    attach(world, GPU, "vm-off", "group")
    config = fake_host.guest("vm-off").config
    assert config is not None
    slots = config.xpath(".//hostdev/address[@type='pci']")
    assert [int(slot.get("function", "0"), 16) for slot in slots] == [0, 1]
    assert len({(slot.get("bus"), slot.get("slot")) for slot in slots}) == 1
    assert slots[0].get("multifunction") == "on"


def test_a_gpu_without_its_audio_function_is_not_attached(
    world: World, fake_host: FakeHost
) -> None:
    register(world, GPU)
    for instance in ("vm-on", "vm-off"):
        with refusal("iommu_group_conflict"):
            attach(world, GPU, instance)
    assert fake_host.calls["attachDeviceFlags"] == 0


@pytest.mark.parametrize("assignment", ["vm-on", "vm-off"])
def test_what_another_domain_holds_is_refused_with_its_name_and_state(
    world: World, fake_host: FakeHost, assignment: str
) -> None:
    register(world, ALONE)
    fake_host.virsh_attach(assignment, ALONE, live=assignment == "vm-on")
    other = "vm-off" if assignment == "vm-on" else "vm-on"
    with refusal("in_use") as error:
        attach(world, ALONE, other)
    state = "running" if assignment == "vm-on" else "shut off"
    assert (
        f"domain {assignment} (UUID {fake_host.guest(assignment).uuid}, {state})"
        in error.value.message
    )


def test_a_sibling_in_another_domain_keeps_the_whole_group_there(
    world: World, fake_host: FakeHost
) -> None:
    register(world, GPU)
    fake_host.set_driver(GPU, "vfio-pci")
    fake_host.virsh_attach("vm-on", AUDIO)
    with refusal("iommu_group_conflict") as error:
        attach(world, GPU, "vm-off")
    assert "vm-on" in error.value.message


def test_attaching_again_to_the_same_domain_does_nothing(world: World, fake_host: FakeHost) -> None:
    register(world, ALONE)
    attach(world, ALONE, "vm-on")
    calls = fake_host.calls["attachDeviceFlags"]
    attach(world, ALONE, "vm-on")
    assert fake_host.calls["attachDeviceFlags"] == calls


def test_an_unknown_instance_and_an_unattached_device_are_named(world: World) -> None:
    register(world, ALONE)
    with refusal("instance_not_found") as error:
        attach(world, ALONE, "vm-none")
    assert "vm-none" in error.value.message
    with refusal("not_attached"):
        world.service.detach(ALONE, OPERATOR)


def test_the_domains_metadata_follows(
    world: World, fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    gpu = register(world, GPU, "h100")
    attach(world, GPU, "vm-on", "group")
    domain = libvirt_host.find_domain("vm-on")
    assert domain is not None
    entry = MetadataEntry(
        gpu.registration.id, "h100", PciAddress.parse(GPU), (PciAddress.parse(AUDIO),)
    )
    assert list(libvirt_host.read_metadata(domain)) == [entry]
    world.service.detach(GPU, OPERATOR)
    assert list(libvirt_host.read_metadata(domain)) == []
    assert fake_host.driver(AUDIO) == "snd_hda_intel"


def test_when_the_metadata_cannot_be_written_nothing_is_attached(
    world: World, fake_host: FakeHost
) -> None:
    register(world, GPU)
    fake_host.refuse("setMetadata", 38)
    with refusal("libvirt_error"):
        attach(world, GPU, "vm-on", "group")
    assert world.service.inventory.get(GPU).assignment is None
    assert (fake_host.driver(GPU), fake_host.driver(AUDIO)) == ("nvidia", "snd_hda_intel")


def test_when_libvirt_refuses_the_siblings_go_back(world: World, fake_host: FakeHost) -> None:
    register(world, GPU)
    fake_host.refuse("attachDeviceFlags", 1, 20)
    with refusal("libvirt_error"):
        attach(world, GPU, "vm-on", "group")
    assert (fake_host.driver(GPU), fake_host.driver(AUDIO)) == ("nvidia", "snd_hda_intel")


def test_a_guest_that_does_not_let_go_is_reported_and_the_state_is_as_it_is(
    world: World, fake_host: FakeHost
) -> None:
    register(world, ALONE)
    attach(world, ALONE, "vm-on")
    fake_host.guest_ignores_unplug("vm-on")
    with refusal("guest_did_not_release"):
        world.service.detach(ALONE, OPERATOR)
    assignment = world.service.inventory.get(ALONE).assignment
    assert assignment is not None
    assert (assignment.live, assignment.persistent) == (True, False)
    fake_host.guest_ignores_unplug("vm-on", ignores=False)
    assert world.service.detach(ALONE, OPERATOR).assignment is None


def test_an_attached_device_is_not_unregistered(world: World, fake_host: FakeHost) -> None:
    register(world, ALONE)
    fake_host.virsh_attach("vm-off", ALONE, live=False)
    with refusal("in_use") as error:
        world.service.unregister(ALONE, OPERATOR)
    assert "vm-off" in error.value.message
    fake_host.virsh_undefine("vm-off")
    world.service.unregister(ALONE, OPERATOR)


def test_a_nic_in_use_by_the_host_is_not_attached(world: World, fake_host: FakeHost) -> None:
    register(world, NIC)
    with refusal("critical_device"):
        attach(world, NIC, "vm-on")
    assert fake_host.driver(NIC) == "mlx5_core"


def test_a_domain_without_a_free_slot_is_named(world: World, fake_host: FakeHost) -> None:
    fake_host.add_domain("vm-full", running=True, root_ports=0)
    register(world, ALONE)
    with refusal("no_free_slot"):
        attach(world, ALONE, "vm-full")
    assert fake_host.driver(ALONE) == "nvidia"


def test_a_group_in_one_slot_of_a_running_guest_is_refused_before_anything_moves(
    world: World, fake_host: FakeHost
) -> None:
    register(world, GPU)
    attach(world, GPU, "vm-off", "group")
    world.service.bind(GPU, "group", OPERATOR)
    fake_host.virsh_start("vm-off")
    with refusal("not_supported") as error:
        world.service.detach(GPU, OPERATOR)
    assert "one of several functions in its slot of domain vm-off" in error.value.message
    assert fake_host.calls["detachDeviceFlags"] == 0
    fake_host.virsh_destroy("vm-off")
    assert world.service.detach(GPU, OPERATOR).assignment is None
