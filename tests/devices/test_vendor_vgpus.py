"""vGPUs that are virtual functions with a type, which the vendor's driver makes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hypeman_libvirt.devices.errors import (
    DeviceError,
    HelperFailedError,
    InUseError,
    LibvirtFailedError,
    NoCapacityError,
    NotSupportedError,
)
from hypeman_libvirt.devices.model import Device
from hypeman_libvirt.host.usage.local_host import LocalHost
from hypeman_libvirt.rest.schemas import DeviceOut
from tests.devices.vendor_vgpus import FUNCTIONS, GPU, LARGE, SMALL, VendorGpu
from tests.fake_host import FakeHost
from tests.fake_xml import hostdevs
from tests.host.fake_sysfs import FakeSysfs
from tests.world import OPERATOR, World, world_on

KNOWS_PROVIDERS = 11_003_000


@pytest.fixture
def gpu(fake_host: FakeHost, tmp_path: Path) -> VendorGpu:
    fake_host.libvirt = KNOWS_PROVIDERS
    return VendorGpu(fake_host, FakeSysfs(tmp_path / "host"))


@pytest.fixture
def world(fake_host: FakeHost, gpu: VendorGpu, tmp_path: Path) -> Iterator[World]:
    """A service on a host whose GPU has three virtual functions and room for two vGPUs."""
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415

    host = open_host(fake_host.uri, local_host=LocalHost(tmp_path / "host"))
    with world_on(host, tmp_path, helper=gpu) as world:
        yield world
    host.close()


def create(world: World, name: str, profile: str = LARGE, parent: str | None = None) -> Device:
    return world.service.create_vgpu(profile, name, {}, OPERATOR, parent=parent)


def types(gpu: VendorGpu) -> list[int]:
    return [each for _, each in sorted(gpu.vgpu_types.items())]


def test_a_virtual_function_becomes_a_vgpu_and_stays_on_its_driver(
    world: World, gpu: VendorGpu, fake_host: FakeHost
) -> None:
    out = DeviceOut.of(create(world, "slice"))
    assert types(gpu) == [1155, 0, 0]
    assert (out.pci_address, out.parent, out.profile) == (FUNCTIONS[0], GPU, LARGE)
    assert (out.iommu_group, out.bound_to_vfio, out.state) == (91, True, "present")
    assert out.mdev_uuid is None
    assert DeviceOut.of(world.service.inventory.get("slice")) == out
    world.service.unregister("slice", OPERATOR)
    assert types(gpu) == [0, 0, 0]
    assert fake_host.pci(FUNCTIONS[0]).unbinds == 0


def test_profiles_count_the_functions_that_could_be_one(world: World) -> None:
    small, large = world.service.list_profiles()
    assert (small.name, small.framework, small.available) == (SMALL, "vendor", 3)
    assert [(str(each.pci_address), each.available) for each in large.parents] == [(GPU, 3)]
    create(world, "slice")
    (left,) = world.service.list_profiles()
    assert (left.name, left.available) == (LARGE, 2)


def test_the_cached_view_follows_the_types(world: World) -> None:
    view = world.base.view
    before = [each.vgpu_type for each in view.list_node_devices() if each.physical_function]
    create(world, "slice")
    after = [each.vgpu_type for each in view.list_node_devices() if each.physical_function]
    assert (before, after) == (["0", "0", "0"], ["1155", "0", "0"])


@pytest.mark.parametrize("parent", [GPU, FUNCTIONS[2]])
def test_the_parent_is_the_gpu_or_one_of_its_functions(
    world: World, gpu: VendorGpu, parent: str
) -> None:
    create(world, "slice", parent=parent)
    assert types(gpu) == ([1155, 0, 0] if parent == GPU else [0, 0, 1155])


def test_without_room_there_is_no_capacity(world: World, gpu: VendorGpu) -> None:
    create(world, "one")
    create(world, "two")
    for parent in (None, GPU):
        with pytest.raises(NoCapacityError):
            create(world, "three", parent=parent)
    assert types(gpu) == [1155, 1155, 0]


def test_two_clients_for_the_last_room(world: World) -> None:
    create(world, "first")

    def ask(name: str) -> str:
        try:
            return create(world, name).registration.name
        except NoCapacityError as error:
            return error.code

    with ThreadPoolExecutor(2) as clients:
        answers = list(clients.map(ask, ["second", "third"]))
    assert answers.count("no_capacity") == 1


def test_two_clients_for_one_function_get_one_each(world: World, gpu: VendorGpu) -> None:
    with ThreadPoolExecutor(2) as clients:
        made = list(clients.map(lambda name: create(world, name), ["first", "second"]))
    assert {str(each.registration.pci_address) for each in made} == {*FUNCTIONS[:2]}
    assert types(gpu) == [1155, 1155, 0]


def test_functions_that_somebody_has_or_means_are_left_alone(
    world: World, gpu: VendorGpu, fake_host: FakeHost
) -> None:
    fake_host.add_domain("theirs", hostdevs=[FUNCTIONS[0]], managed=False)
    world.service.register(FUNCTIONS[1], "meant", {}, OPERATOR)
    create(world, "slice")
    assert types(gpu) == [0, 0, 1155]


def test_a_driver_that_says_another_type_afterwards_is_not_believed(
    world: World, gpu: VendorGpu
) -> None:
    gpu.answers = lambda vgpu_type: 1145 if vgpu_type == 1155 else vgpu_type
    with pytest.raises(LibvirtFailedError, match="asked for vGPU type 1155, and it has 1145"):
        create(world, "slice")
    assert types(gpu) == [0, 0, 0]
    assert world.service.inventory.list_devices({}) == []


@pytest.mark.parametrize("refusal", [HelperFailedError("no"), NotSupportedError("no helper")])
def test_a_helper_that_fails_leaves_nothing(
    world: World, gpu: VendorGpu, refusal: DeviceError
) -> None:
    gpu.refusal = refusal
    with pytest.raises(type(refusal)):
        create(world, "slice")
    assert types(gpu) == [0, 0, 0]
    assert world.service.inventory.list_devices({}) == []


def test_one_that_a_process_has_open_stays(world: World, gpu: VendorGpu) -> None:
    create(world, "slice")
    gpu.open.add(FUNCTIONS[0])
    with pytest.raises(InUseError):
        world.service.unregister("slice", OPERATOR)
    assert types(gpu) == [1155, 0, 0]
    gpu.open.clear()
    world.service.unregister("slice", OPERATOR)


def test_a_delete_that_the_driver_ignores_leaves_it_registered(
    world: World, gpu: VendorGpu
) -> None:
    create(world, "slice")
    registration = world.service.inventory.get("slice").registration
    gpu.answers = lambda _: 1155
    with pytest.raises(LibvirtFailedError):
        world.service.unregister("slice", OPERATOR)
    assert world.service.inventory.get("slice").registration == registration
    assert types(gpu) == [1155, 0, 0]


@pytest.mark.parametrize("name", ["vm-on", "vm-off"])
def test_a_domain_gets_it_unmanaged(
    world: World, gpu: VendorGpu, fake_host: FakeHost, name: str
) -> None:
    create(world, "slice")
    world.service.attach("slice", name, "device", OPERATOR)
    guest = fake_host.guest(name)
    found = [*hostdevs(guest.live), *hostdevs(guest.config)]
    assert {each.get("managed") for each in found} == {"no"}
    with pytest.raises(InUseError, match=name):
        world.service.unregister("slice", OPERATOR)
    world.service.detach("slice", OPERATOR)
    assert types(gpu) == [1155, 0, 0]
    assert fake_host.driver(FUNCTIONS[0]) == "nvidia"


def test_a_libvirt_that_would_lose_the_type_is_refused(
    world: World, gpu: VendorGpu, fake_host: FakeHost
) -> None:
    fake_host.libvirt = 9_000_000
    create(world, "slice")
    with pytest.raises(NotSupportedError, match="libvirt 9"):
        world.service.attach("slice", "vm-off", "device", OPERATOR)
    assert types(gpu) == [1155, 0, 0]


def test_one_that_lost_its_type_is_not_attached(world: World, gpu: VendorGpu) -> None:
    create(world, "slice")
    forget_types(gpu)
    with pytest.raises(DeviceError, match="vGPU type 0 instead of 1155"):
        world.service.attach("slice", "vm-off", "device", OPERATOR)
    world.service.unregister("slice", OPERATOR)
    assert world.service.inventory.list_devices({}) == []


def forget_types(gpu: VendorGpu) -> None:
    """Start the host anew: the driver forgets."""
    gpu.vgpu_types = dict.fromkeys(gpu.vgpu_types, 0)
    gpu.show()


def test_one_that_persists_is_made_again_after_the_host_has_forgotten_it(
    world: World, gpu: VendorGpu
) -> None:
    world.service.create_vgpu(LARGE, "kept", {}, OPERATOR, persist=True)
    create(world, "gone")
    assert DeviceOut.of(world.service.inventory.get("kept")).persistent
    assert not DeviceOut.of(world.service.inventory.get("gone")).persistent
    assert world.service.restore_vgpus() == []
    forget_types(gpu)
    assert [each.name for each in world.service.restore_vgpus()] == ["kept"]
    assert types(gpu) == [1155, 0, 0]


def test_the_service_makes_it_again_when_it_starts(world: World, gpu: VendorGpu) -> None:
    world.service.create_vgpu(LARGE, "kept", {}, OPERATOR, persist=True)
    forget_types(gpu)
    world.service.start_following()
    while types(gpu) != [1155, 0, 0]:
        time.sleep(0.01)


def test_one_that_cannot_be_made_again_stops_no_other(world: World, gpu: VendorGpu) -> None:
    for name in ("first", "second"):
        world.service.create_vgpu(LARGE, name, {}, OPERATOR, persist=True)
    forget_types(gpu)
    gpu.open.add(FUNCTIONS[0])
    assert [each.name for each in world.service.restore_vgpus()] == ["second"]
    assert types(gpu) == [0, 1155, 0]


def test_its_gpu_stays_on_its_driver(world: World, fake_host: FakeHost) -> None:
    create(world, "slice")
    world.service.register(GPU, "whole", {}, OPERATOR)
    with pytest.raises(DeviceError) as refusal:
        world.service.bind("whole", "device", OPERATOR, force=True)
    assert refusal.value.code == "sriov_active"
    assert fake_host.driver(GPU) == "nvidia"
