"""What the doctor says of virtual functions, vGPUs and their services."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hypeman_libvirt.devices.address import MdevUuid
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.model import Device, GroupMember, GroupReport, Vgpu
from hypeman_libvirt.devices.node_device import MediatedDevice, slice_of
from hypeman_libvirt.doctor.checks import diagnose
from hypeman_libvirt.doctor.facts import Facts, Finding
from tests.doctor.test_checks import LIBVIRT, MACHINE, NODE, UNIT, WELL
from tests.registry.registrations import L4

UUID = MdevUuid("c2177883-f1bb-47f0-914d-32a22e3a8804")
MDEV = MediatedDevice("mdev_x", UUID, NODE.node_name, "nvidia-230", True, True, True, 200)
MADE = replace(L4, vgpu=Vgpu("nvidia-230", "GRID T4-8Q", UUID, made=True))
WITH_VGPUS = replace(WELL, libvirt=replace(LIBVIRT, makes_vgpus=True))
MANAGER = replace(UNIT, name="nvidia-vgpu-mgr.service", active="failed", detail="failed")


def findings(facts: Facts, check: str = "slices") -> list[Finding]:
    return [each for each in diagnose(facts) if each.id == check]


def test_a_host_without_slices_is_well() -> None:
    assert [each.severity for each in findings(WELL)] == ["ok"]


def test_a_count_of_virtual_functions_that_is_not_the_wanted_one() -> None:
    rule = BootRule(NODE.address, "10de", "27b8", virtual_functions=4)
    group = GroupReport(82, (GroupMember(NODE, None, None),), viable=True, reason=None)
    (found,) = findings(replace(WELL, boot_rules=[rule], groups=[group]))
    assert (found.severity, found.message) == (
        "warning",
        "0000:a2:00.0 has 0 virtual functions, and is to have 4",
    )
    functions = tuple(replace(NODE.address, function=number) for number in range(1, 5))
    node = replace(NODE, virtual_functions=functions)
    well = replace(group, members=(GroupMember(node, None, None),))
    assert findings(replace(WELL, boot_rules=[rule], groups=[well]))[0].severity == "ok"
    vfio = replace(rule, virtual_functions=None)
    assert findings(replace(WELL, boot_rules=[vfio], groups=[group]))[0].severity == "ok"


def test_a_vgpu_that_lost_its_type() -> None:
    made = replace(L4, vgpu=Vgpu("1155", "NVIDIA L40S-4Q", made=True))
    lost = Device(made, replace(NODE, vgpu_type="0"), None)
    (found,) = findings(replace(WELL, devices=[lost]))
    assert found.severity == "error"
    assert "its type is 0 now" in found.message
    kept = replace(lost, node=replace(NODE, vgpu_type="1155"))
    assert findings(replace(WELL, devices=[kept]))[0].severity == "ok"
    unknown = replace(lost, node=NODE)
    assert findings(replace(WELL, devices=[unknown]))[0].severity == "ok"


def test_a_mediated_device_of_another_type_under_the_same_uuid() -> None:
    other = Device(MADE, slice_of(NODE, replace(MDEV, type_id="nvidia-222")), None)
    (found,) = findings(replace(WELL, devices=[other]))
    assert "its type is nvidia-222 now" in found.message


def test_a_vgpu_that_is_not_active_is_named_with_how_to_end_it() -> None:
    (found,) = findings(replace(WELL, devices=[Device(MADE, None, None)]), "devices")
    assert (found.severity, found.message) == (
        "warning",
        f"l4-gpu: the vGPU {UUID} is not active",
    )
    assert "hypeman-libvirt devices delete l4-gpu" in (found.cure or "")


@pytest.mark.parametrize("facts", [WELL, WITH_VGPUS])
def test_a_udev_rule_that_calls_mdevctl_where_it_is_not(facts: Facts) -> None:
    lost = replace(facts, machine=replace(MACHINE, lost_mdevctl="/usr/sbin/mdevctl"))
    (found,) = findings(lost)
    if facts is WELL:
        assert found.severity == "ok"
        return
    assert (found.severity, found.cure) == (
        "warning",
        "ln -s $(command -v mdevctl) /usr/sbin/mdevctl",
    )


def test_nvidias_manager_that_does_not_run() -> None:
    (found,) = findings(replace(WITH_VGPUS, vgpu_manager=MANAGER))
    assert (found.severity, found.message) == (
        "error",
        "nvidia-vgpu-mgr.service is failed (failed): no domain starts with a vGPU",
    )
    runs = replace(MANAGER, active="active", detail="running")
    assert findings(replace(WITH_VGPUS, vgpu_manager=runs))[0].severity == "ok"
    assert findings(replace(WELL, vgpu_manager=MANAGER))[0].severity == "ok"
