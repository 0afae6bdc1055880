"""Stories of bind and unbind: what moves, what is refused, what is undone."""

from __future__ import annotations

import pytest

from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.devices.model import Device
from tests.fake_host import FakeHost
from tests.world import OPERATOR, World

GPU, AUDIO = "0000:41:00.0", "0000:41:00.1"
ALONE = "0000:a2:00.0"
NIC = "0000:3b:00.0"


def register(world: World, address: str, name: str | None = None) -> Device:
    return world.service.register(address, name, {}, OPERATOR)


def refusal(code: str) -> pytest.RaisesExc[DeviceError]:
    return pytest.RaisesExc(DeviceError, check=lambda error: error.code == code)


def test_bind_moves_the_device_to_vfio_and_unbind_gives_it_back(
    world: World, fake_host: FakeHost
) -> None:
    gpu = register(world, ALONE, "l4-gpu")
    assert world.service.bind("l4-gpu", "device", OPERATOR).node.driver == "vfio-pci"  # type: ignore[union-attr]
    assert fake_host.driver(ALONE) == "vfio-pci"
    world.service.unbind(gpu.registration.id, "device", OPERATOR)
    assert fake_host.driver(ALONE) == "nvidia"
    assert [change.action for change in world.changes] == ["register", "bind", "unbind"]


def test_binding_twice_and_unbinding_twice_does_nothing_the_second_time(
    world: World, fake_host: FakeHost
) -> None:
    register(world, ALONE)
    for _ in range(2):
        world.service.bind(ALONE, "device", OPERATOR)
    assert fake_host.calls["detachFlags"] == 1
    for _ in range(2):
        world.service.unbind(ALONE, "device", OPERATOR)
    assert fake_host.calls["reAttach"] == 1


def test_a_device_on_its_host_driver_is_never_bounced(world: World, fake_host: FakeHost) -> None:
    register(world, ALONE)
    world.service.unbind(ALONE, "group", OPERATOR)
    assert fake_host.pci(ALONE).unbinds == 0
    assert fake_host.calls["reAttach"] == 0


def test_a_gpu_without_its_audio_function_is_refused_and_the_sibling_named(
    world: World, fake_host: FakeHost
) -> None:
    register(world, GPU)
    with refusal("iommu_group_conflict") as error:
        world.service.bind(GPU, "device", OPERATOR)
    assert f"not viable without {AUDIO} (audio, driver snd_hda_intel)" in error.value.message
    assert error.value.hint == f"also pass {AUDIO} (audio), or use scope=group"
    assert fake_host.calls["detachFlags"] == 0


def test_group_scope_moves_the_gpu_and_its_audio_function(
    world: World, fake_host: FakeHost
) -> None:
    register(world, GPU)
    world.service.bind(GPU, "group", OPERATOR)
    assert (fake_host.driver(GPU), fake_host.driver(AUDIO)) == ("vfio-pci", "vfio-pci")
    world.service.unbind(GPU, "group", OPERATOR)
    assert (fake_host.driver(GPU), fake_host.driver(AUDIO)) == ("nvidia", "snd_hda_intel")


def test_when_the_second_of_a_group_is_refused_the_first_goes_back(
    world: World, fake_host: FakeHost
) -> None:
    register(world, GPU)
    fake_host.vfio_refuses(AUDIO)
    with refusal("vfio_unavailable") as error:
        world.service.bind(GPU, "group", OPERATOR)
    assert AUDIO in error.value.message
    assert (fake_host.driver(GPU), fake_host.driver(AUDIO)) == ("nvidia", "snd_hda_intel")
    assert [change.action for change in world.changes] == ["register"]


def test_success_without_a_driver_is_an_error_and_undone(world: World, fake_host: FakeHost) -> None:
    register(world, ALONE)
    fake_host.vfio_refuses(ALONE)
    with refusal("vfio_unavailable"):
        world.service.bind(ALONE, "device", OPERATOR)
    assert fake_host.driver(ALONE) == "nvidia"


def test_a_host_driver_that_refuses_leaves_the_device_on_vfio(
    world: World, fake_host: FakeHost
) -> None:
    register(world, ALONE)
    world.service.bind(ALONE, "device", OPERATOR)
    fake_host.driver_refuses(ALONE)
    with refusal("driver_not_bound"):
        world.service.unbind(ALONE, "device", OPERATOR)
    assert fake_host.driver(ALONE) == "vfio-pci"


def test_a_device_that_never_had_a_driver_is_given_back_to_none(
    world: World, fake_host: FakeHost
) -> None:
    fake_host.add_pci("0000:06:00.0", class_code="00ff00", group=18)
    register(world, "0000:06:00.0")
    world.service.bind("0000:06:00.0", "device", OPERATOR)
    world.service.unbind("0000:06:00.0", "device", OPERATOR)
    assert fake_host.driver("0000:06:00.0") is None


def test_a_nic_whose_link_is_up_stays_with_the_host_unless_forced(
    world: World, fake_host: FakeHost
) -> None:
    register(world, NIC)
    with refusal("critical_device"):
        world.service.bind(NIC, "device", OPERATOR)
    assert fake_host.driver(NIC) == "mlx5_core"
    world.service.bind(NIC, "device", OPERATOR, force=True)
    assert fake_host.driver(NIC) == "vfio-pci"
    assert world.changes[-1].forced
    assert world.changes[-1].caller == OPERATOR


def test_a_physical_function_with_virtual_functions_is_refused(
    world: World, fake_host: FakeHost
) -> None:
    fake_host.add_pci("0000:65:00.0", class_code="010802", driver="nvme", group=65, max_vfs=4)
    fake_host.add_pci(
        "0000:65:00.1", class_code="010802", group=66, physical_function="0000:65:00.0"
    )
    register(world, "0000:65:00.0")
    with refusal("sriov_active"):
        world.service.bind("0000:65:00.0", "device", OPERATOR)
    assert fake_host.driver("0000:65:00.0") == "nvme"


def test_other_hardware_at_the_address_is_refused(world: World, fake_host: FakeHost) -> None:
    register(world, ALONE)
    fake_host.vanish(ALONE)
    with refusal("identity_changed"):
        world.service.bind(ALONE, "device", OPERATOR)
    fake_host.add_pci(ALONE, vendor="10de", product="2684", driver="nvidia", group=82)
    with refusal("identity_changed") as error:
        world.service.bind(ALONE, "device", OPERATOR)
    assert "10de:2684 instead of 10de:27b8" in error.value.message
    assert fake_host.driver(ALONE) == "nvidia"


def test_what_a_running_domain_holds_is_not_taken_back(world: World, fake_host: FakeHost) -> None:
    register(world, GPU)
    fake_host.set_driver(AUDIO, "vfio-pci")
    fake_host.virsh_attach("vm-on", GPU)
    for scope in ("device", "group"):
        with refusal("in_use") as error:
            world.service.unbind(GPU, scope, OPERATOR)
        assert "vm-on" in error.value.message
    assert (fake_host.driver(GPU), fake_host.driver(AUDIO)) == ("vfio-pci", "vfio-pci")


def test_a_sibling_is_not_given_back_while_the_group_is_in_a_guest(
    world: World, fake_host: FakeHost
) -> None:
    register(world, AUDIO)
    fake_host.set_driver(AUDIO, "vfio-pci")
    fake_host.virsh_attach("vm-on", GPU)
    with refusal("in_use"):
        world.service.unbind(AUDIO, "device", OPERATOR)
    assert fake_host.driver(AUDIO) == "vfio-pci"


def test_registering_with_bind_does_both_or_neither(world: World, fake_host: FakeHost) -> None:
    fake_host.vfio_refuses(ALONE)
    with refusal("vfio_unavailable"):
        world.service.register(ALONE, None, {}, OPERATOR, bind="device")
    assert world.service.inventory.list_devices({}) == []
    assert fake_host.driver(ALONE) == "nvidia"
    world.service.register(GPU, None, {}, OPERATOR, bind="group")
    assert fake_host.driver(AUDIO) == "vfio-pci"


def test_unregistering_with_unbind_does_both_or_neither(world: World, fake_host: FakeHost) -> None:
    register(world, ALONE)
    world.service.bind(ALONE, "device", OPERATOR)
    fake_host.driver_refuses(ALONE)
    with refusal("driver_not_bound"):
        world.service.unregister(ALONE, OPERATOR, unbind="device")
    assert len(world.service.inventory.list_devices({})) == 1
    fake_host.pci(ALONE).refused_by_host_driver = False
    world.service.unregister(ALONE, OPERATOR, unbind="device")
    assert world.service.inventory.list_devices({}) == []
    assert fake_host.driver(ALONE) == "nvidia"


def test_what_virsh_does_in_between_is_true_in_the_next_answer(
    world: World, fake_host: FakeHost
) -> None:
    register(world, ALONE)
    fake_host.set_driver(ALONE, "vfio-pci")
    device = world.service.inventory.get(ALONE)
    assert device.node is not None
    assert device.node.driver == "vfio-pci"
    fake_host.virsh_attach("vm-off", ALONE, live=False)
    assignment = world.service.inventory.get(ALONE).assignment
    assert assignment is not None
    assert (assignment.domain.name, assignment.live) == ("vm-off", False)
