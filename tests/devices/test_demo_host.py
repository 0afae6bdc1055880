"""The rules on libvirt's own test driver, with the demo host that everyone starts with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hypeman_libvirt.devices.model import Device
from hypeman_libvirt.devices.recovery import recover
from tests.devices.test_bind import refusal
from tests.world import OPERATOR, World, world_on

pytestmark = pytest.mark.testdriver

L4, GPU, AUDIO, HELD = "0000:a2:00.0", "0000:41:00.0", "0000:41:00.1", "0000:c1:00.0"
NIC, VF, NVME, BRIDGE, VMD = (
    "0000:3b:00.0",
    "0000:3b:00.2",
    "0000:01:00.0",
    "0000:a1:01.0",
    "10000:e1:00.0",
)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[World]:
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415
    from hypeman_libvirt.host.test_driver import demo_uri  # noqa: PLC0415 - needs the real libvirt

    host = open_host(demo_uri())
    with world_on(host, tmp_path) as world:
        yield world
    host.close()


def register(world: World, address: str) -> Device:
    return world.service.register(address, None, {}, OPERATOR)


def driver(world: World, address: str) -> str | None:
    nodes = {str(each.node.address): each.node for each in world.service.inventory.list_available()}
    return nodes[address].driver


def test_the_seeds_gpu_is_what_the_seed_says(demo: World) -> None:
    gpu = demo.service.register(L4, "l4-gpu", {}, OPERATOR)
    assert gpu.node is not None
    facts = (gpu.node.vendor_id, gpu.node.device_id, gpu.node.iommu_group, gpu.node.driver)
    assert facts == ("10de", "27b8", 82, "nvidia")
    assert gpu.assignment is None


def test_bind_and_unbind_move_the_driver(demo: World) -> None:
    register(demo, L4)
    demo.service.bind(L4, "device", OPERATOR)
    assert driver(demo, L4) == "vfio-pci"
    demo.service.unbind(L4, "device", OPERATOR)
    assert driver(demo, L4) == "nvidia"


def test_a_gpu_goes_with_its_audio_function_or_not_at_all(demo: World) -> None:
    register(demo, GPU)
    with refusal("iommu_group_conflict"):
        demo.service.bind(GPU, "device", OPERATOR)
    with refusal("iommu_group_conflict"):
        demo.service.attach(GPU, "training", "device", OPERATOR)
    demo.service.bind(GPU, "group", OPERATOR)
    assert (driver(demo, GPU), driver(demo, AUDIO)) == ("vfio-pci", "vfio-pci")


def test_a_group_goes_into_a_definition_and_out_again(demo: World) -> None:
    register(demo, GPU)
    device = demo.service.attach(GPU, "training", "group", OPERATOR)
    assert device.assignment is not None
    assert (device.assignment.domain.name, device.assignment.live) == ("training", False)
    assert demo.service.detach(GPU, OPERATOR).assignment is None
    held = [each.assignment for each in demo.service.inventory.list_available()]
    assert "training" not in [each.domain.name for each in held if each]


def test_a_running_domain_gets_it_at_least_at_its_next_start(demo: World) -> None:
    register(demo, L4)
    device = demo.service.attach(L4, "builder", "device", OPERATOR)
    assert device.assignment is not None
    assert device.assignment.persistent
    assert demo.service.detach(L4, OPERATOR).assignment is None


def test_what_a_domain_holds_is_refused(demo: World) -> None:
    register(demo, HELD)
    with refusal("in_use") as error:
        demo.service.attach(HELD, "training", "device", OPERATOR)
    assert "inference" in error.value.message
    with refusal("in_use"):
        demo.service.unbind(HELD, "device", OPERATOR)
    with refusal("in_use"):
        demo.service.unregister(HELD, OPERATOR)


def test_what_the_host_lives_on_stays(demo: World) -> None:
    for address in (NIC, NVME):
        register(demo, address)
        before = driver(demo, address)
        with refusal("critical_device"):
            demo.service.bind(address, "device", OPERATOR)
        assert driver(demo, address) == before


def test_a_physical_function_stays_even_by_force(demo: World) -> None:
    register(demo, NIC)
    with refusal("sriov_active"):
        demo.service.bind(NIC, "device", OPERATOR, force=True)
    assert driver(demo, NIC) == "mlx5_core"


def test_what_cannot_be_assigned_is_not_registered(demo: World) -> None:
    with refusal("not_assignable"):
        register(demo, BRIDGE)
    with refusal("iommu_unavailable"):
        register(demo, VMD)


def test_a_virtual_function_on_vfio_is_bound_already(demo: World) -> None:
    device = register(demo, VF)
    assert demo.service.bind(VF, "device", OPERATOR) == device


def test_preflight_says_what_attach_will_say(demo: World) -> None:
    register(demo, GPU)
    found = {each.id: each for each in demo.service.preflight.of_device(GPU).checks}
    assert found["group"].severity == "error"
    assert found["group"].hint == f"also pass {AUDIO} (audio), or use scope=group"
    assert not demo.service.preflight.of_device(GPU).ready
    assert demo.service.preflight.of_device(GPU, scope="group").ready
    assert demo.service.preflight.of_address(L4).ready


def test_the_domains_metadata_names_the_device(demo: World) -> None:
    registration = register(demo, L4).registration
    demo.service.attach(L4, "training", "device", OPERATOR)
    demo.registry.remove(registration.host, registration.id)
    assert [each.problem for each in recover(demo.host, demo.registry, lambda: demo.now)] == [None]
    assert demo.service.inventory.get(L4).registration.id == registration.id
