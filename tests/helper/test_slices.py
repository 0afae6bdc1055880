"""Virtual functions and vGPU types on a kernel that answers as a real one does."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from hypeman_libvirt.devices.errors import (
    BadRequestError,
    DeviceNotFoundError,
    HelperFailedError,
    InUseError,
    NotSupportedError,
    NoVirtualFunctionsError,
)
from hypeman_libvirt.helper.actions import Actions
from hypeman_libvirt.helper.protocol import SetVgpuType, SetVirtualFunctions
from tests.helper.fake_kernel import GPU, NIC, VF, FakeKernel


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    return FakeKernel(tmp_path)


@pytest.fixture
def actions(kernel: FakeKernel) -> Actions:
    return Actions(kernel.root, write=kernel.write)


def functions(count: int, device: str = NIC, *, autoprobe: bool = False) -> SetVirtualFunctions:
    return SetVirtualFunctions(device=device, count=count, autoprobe=autoprobe)


def test_virtual_functions_are_made_without_a_host_driver_for_them(
    kernel: FakeKernel, actions: Actions
) -> None:
    actions.perform(functions(4))
    assert kernel.writes == [("sriov_drivers_autoprobe", "0"), ("sriov_numvfs", "4")]
    assert len(kernel.virtual_functions(NIC)) == 4


def test_another_count_goes_through_none(kernel: FakeKernel, actions: Actions) -> None:
    actions.perform(functions(3))
    actions.perform(functions(2))
    assert kernel.writes[-2:] == [("sriov_numvfs", "0"), ("sriov_numvfs", "2")]
    assert kernel.text(NIC, "sriov_numvfs") == "2"


def test_the_count_that_there_is_changes_nothing(kernel: FakeKernel, actions: Actions) -> None:
    actions.perform(functions(3))
    before = list(kernel.writes)
    actions.perform(functions(3))
    assert kernel.writes == before


def test_what_fails_leaves_as_many_as_there_were(kernel: FakeKernel, actions: Actions) -> None:
    actions.perform(functions(2, autoprobe=True))
    kernel.most = 4
    with pytest.raises(HelperFailedError, match="Cannot allocate memory"):
        actions.perform(functions(5))
    assert kernel.text(NIC, "sriov_numvfs") == "2"
    assert kernel.text(NIC, "sriov_drivers_autoprobe") == "1"


def test_a_function_that_a_process_has_open_is_not_taken_away(
    kernel: FakeKernel, actions: Actions
) -> None:
    actions.perform(functions(2))
    kernel.open(4711, "qemu-system-x86", "/dev/vfio/201")
    before = list(kernel.writes)
    with pytest.raises(InUseError, match=r"qemu-system-x86 \(pid 4711\)"):
        actions.perform(functions(0))
    assert kernel.writes == before


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (functions(9), BadRequestError),
        (functions(1, GPU), NoVirtualFunctionsError),
        (functions(1, "0000:99:00.0"), DeviceNotFoundError),
    ],
    ids=["more than it has", "no SR-IOV", "no device"],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    kernel: FakeKernel, actions: Actions, request_: SetVirtualFunctions, error: type[Exception]
) -> None:
    with pytest.raises(error):
        actions.perform(request_)
    assert kernel.writes == []


def test_without_a_driver_there_are_no_virtual_functions(
    kernel: FakeKernel, actions: Actions
) -> None:
    (kernel.root / "sys/bus/pci/devices" / NIC / "driver").unlink()
    with pytest.raises(NoVirtualFunctionsError, match="no driver"):
        actions.perform(functions(1))


def test_a_link_that_leads_out_of_sysfs_is_no_device(kernel: FakeKernel, actions: Actions) -> None:
    elsewhere = kernel.root / "tmp/0000:99:00.0"
    elsewhere.mkdir(parents=True)
    (elsewhere / "sriov_totalvfs").write_text("8")
    (kernel.root / "sys/bus/pci/devices/0000:99:00.0").symlink_to(elsewhere)
    with pytest.raises(DeviceNotFoundError):
        actions.perform(functions(1, "0000:99:00.0"))


def vgpu(vgpu_type: int, device: str = VF) -> SetVgpuType:
    return SetVgpuType(device=device, vgpu_type=vgpu_type)


def test_a_vgpu_is_made_and_taken_away(kernel: FakeKernel, actions: Actions) -> None:
    actions.perform(vgpu(1155))
    assert kernel.text(VF, "nvidia/current_vgpu_type") == "1155"
    actions.perform(vgpu(0))
    assert kernel.text(VF, "nvidia/current_vgpu_type") == "0"


def test_a_driver_that_says_another_type_is_set_back(kernel: FakeKernel, actions: Actions) -> None:
    kernel.types_read_back["1155"] = "1156"
    with pytest.raises(HelperFailedError, match=r"took vGPU type 1155 .* says 1156"):
        actions.perform(vgpu(1155))
    assert kernel.text(VF, "nvidia/current_vgpu_type") == "0"


def test_a_driver_that_refuses_is_reported_in_its_words(
    kernel: FakeKernel, actions: Actions
) -> None:
    kernel.refused["current_vgpu_type"] = errno.EBUSY
    with pytest.raises(HelperFailedError, match="resource busy"):
        actions.perform(vgpu(1155))


@pytest.mark.parametrize(
    ("vgpu_type", "device", "said"),
    [(1, VF, "cannot be a vGPU of type 1"), (1155, GPU, "makes no vGPUs")],
)
def test_a_type_that_is_not_on_offer_is_refused(
    kernel: FakeKernel, actions: Actions, vgpu_type: int, device: str, said: str
) -> None:
    with pytest.raises(NotSupportedError, match=said):
        actions.perform(vgpu(vgpu_type, device))
    assert kernel.writes == []


def test_a_vgpu_of_another_type_or_in_use_stays(kernel: FakeKernel, actions: Actions) -> None:
    actions.perform(vgpu(1155))
    with pytest.raises(InUseError, match="is a vGPU of type 1155"):
        actions.perform(vgpu(1156))
    kernel.open(99, "qemu", "/dev/vfio/97")
    with pytest.raises(InUseError, match="qemu"):
        actions.perform(vgpu(0))
    assert kernel.text(VF, "nvidia/current_vgpu_type") == "1155"


def test_what_locks_a_virtual_function_is_its_card(actions: Actions) -> None:
    assert actions.lock_of(vgpu(0)) == GPU
    assert actions.lock_of(functions(0)) == NIC
