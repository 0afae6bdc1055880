"""Counting what the host has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hypeman_libvirt.devices.address import MdevUuid, PciAddress
from hypeman_libvirt.devices.domain import Assignment, Domain
from hypeman_libvirt.devices.model import AvailableDevice
from hypeman_libvirt.devices.node_device import (
    MediatedDevice,
    NodeDevice,
    VgpuProfile,
    slice_of,
)
from hypeman_libvirt.devices.vgpu import framebuffer_of
from hypeman_libvirt.resources.model import StoragePool
from hypeman_libvirt.resources.reader import (
    GpuProfile,
    PassthroughGpu,
    Resource,
    count_gpus,
    count_storage,
    count_taken,
)

GPU_CLASS, NIC_CLASS = 0x030200, 0x020000
AT = PciAddress.parse("0000:a2:00.0")
SOMEBODY = Domain("7a3d5b1e-4c0f-4d86-9f0e-2b1c8d7e6f50", "vm", "running", True, True)


def gpu(name: str | None = "L4", *profiles: VgpuProfile, held: bool = False) -> AvailableDevice:
    node = NodeDevice(
        "pci", AT, "10de", "27b8", GPU_CLASS, device_name=name, vgpu_profiles=profiles
    )
    assignment = Assignment(SOMEBODY, AT, live=True, persistent=True, managed=True)
    return AvailableDevice(node, None, assignment if held else None)


def vgpu(of: AvailableDevice, number: int, *, held: bool) -> AvailableDevice:
    uuid = MdevUuid(f"c2177883-f1bb-47f0-914d-32a22e3a880{number}")
    mdev = MediatedDevice("mdev", uuid, "pci", "nvidia-1", True, True, False, 100 + number)
    assignment = Assignment(SOMEBODY, uuid, live=True, persistent=True, managed=False, kind="mdev")
    return AvailableDevice(slice_of(of.node, mdev), None, assignment if held else None)


def profile(name: str, available: int) -> VgpuProfile:
    return VgpuProfile("nvidia-1", name, available)


def test_without_a_gpu_there_are_no_slots() -> None:
    nic = AvailableDevice(NodeDevice("pci", AT, "15b3", "101d", NIC_CLASS), None, None)
    assert count_gpus([nic]) is None


def test_a_gpu_is_available_while_no_domain_holds_it() -> None:
    gpus = count_gpus([gpu("L4"), gpu("A100", held=True)])
    assert gpus is not None
    assert (gpus.mode, gpus.total, gpus.used, gpus.profiles) == ("passthrough", 2, 1, [])
    assert gpus.devices == [PassthroughGpu("L4", True), PassthroughGpu("A100", False)]


def test_a_gpu_without_a_name_shows_its_ids() -> None:
    gpus = count_gpus([gpu(None)])
    assert gpus is not None
    assert gpus.devices[0].name == "10de:27b8"


def test_of_a_gpu_in_virtual_functions_these_count() -> None:
    part, whole = gpu("A100 VF"), gpu("A100")
    split = replace(whole, node=replace(whole.node, virtual_functions=(part.node.address,)))
    gpus = count_gpus([split, part])
    assert gpus is not None
    assert [each.name for each in gpus.devices] == ["A100 VF"]


def test_gpus_that_are_all_cut_up_are_counted_in_vgpus() -> None:
    first = gpu("T4", profile("GRID T4-1B", 10), profile("GRID T4-8Q", 1))
    second = gpu("T4", profile("GRID T4-1B", 16))
    slices = [vgpu(first, number, held=number < 4) for number in range(6)]
    gpus = count_gpus([first, *slices, second])
    assert gpus is not None
    assert (gpus.mode, gpus.total, gpus.used, gpus.devices) == ("vgpu", 32, 4, ())
    assert gpus.allocatable == 28
    assert gpus.profiles == [GpuProfile("GRID T4-1B", 1024, 26), GpuProfile("GRID T4-8Q", 8192, 1)]


def test_a_gpu_that_is_cut_up_is_not_available_as_a_whole() -> None:
    whole, cut = gpu("L4"), gpu("T4", profile("GRID T4-1B", 15))
    whole = replace(whole, node=replace(whole.node, node_name="pci_other"))
    gpus = count_gpus([whole, cut, vgpu(cut, 1, held=False)])
    assert gpus is not None
    assert gpus.devices == [PassthroughGpu("L4", True), PassthroughGpu("T4", False)]
    assert (gpus.total, gpus.used) == (2, 1)


def test_one_gpu_for_passthrough_makes_all_of_them_devices() -> None:
    gpus = count_gpus([gpu("L4"), gpu("T4", profile("GRID T4-1B", 16))])
    assert gpus is not None
    assert (gpus.mode, gpus.total) == ("passthrough", 2)
    assert gpus.profiles == [GpuProfile("GRID T4-1B", 1024, 16)]


@pytest.mark.parametrize(
    ("name", "mebibytes"),
    [
        ("GRID T4-1B", 1024),
        ("GRID M60-0Q", 512),
        ("NVIDIA L40S-48C", 49152),
        ("NVIDIA A100-3-20C", 20480),
        ("NVIDIA A100-1-5CME", 5120),
        ("i915-GVTg_V5_4", 0),
        ("", 0),
    ],
)
def test_the_name_of_a_profile_says_its_frame_buffer(name: str, mebibytes: int) -> None:
    assert framebuffer_of(name) == mebibytes


def test_directories_of_one_file_system_count_once() -> None:
    before, after = StoragePool("dir", 100, 60, 40), StoragePool("dir", 100, 61, 39)
    elsewhere = StoragePool("dir", 50, 50, 0)
    assert count_storage([before, after, elsewhere]) == Resource(150, 111, 39)
    assert count_storage([after, before, elsewhere]) == Resource(150, 111, 39)


def test_volume_groups_of_the_same_size_are_different() -> None:
    group = StoragePool("logical", 100, 60, 40)
    assert count_storage([group, group]) == Resource(200, 120, 80)


@pytest.mark.parametrize("pools", [None, []])
def test_without_a_pool_storage_is_not_known(pools: list[StoragePool] | None) -> None:
    assert count_storage(pools) == Resource(0, 0, 0, detected=False)


def test_what_is_given_away_twice_leaves_nothing() -> None:
    assert count_taken(64, [40, 40]) == Resource(64, 80, 0)


def test_what_libvirt_does_not_say_is_not_known() -> None:
    assert count_taken(None, [40]) == Resource(0, 40, 0, detected=False)
