"""What a killed operation leaves, and what it only looks like."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.domain import Assignment, Domain, MetadataEntry
from hypeman_libvirt.devices.model import GroupMember, GroupReport
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.doctor.facts import Finding, Noted
from hypeman_libvirt.doctor.interrupted import check_interrupted
from tests.registry.registrations import L4

GPU = NodeDevice(
    node_name="pci_0000_a2_00_0",
    address=L4.pci_address,
    vendor_id="10de",
    device_id="27b8",
    class_code=0x030200,
    driver="nvidia",
    iommu_group=82,
)
AUDIO = replace(
    GPU,
    node_name="pci_0000_a2_00_1",
    address=PciAddress.parse("0000:a2:00.1"),
    class_code=0x040300,
    driver="snd_hda_intel",
)
VM = Domain("7a3d5b1e-4c0f-4d86-9f0e-2b1c8d7e6f50", "vm", "running", active=True, persistent=True)
HELD = Assignment(VM, GPU.address, live=True, persistent=True, managed=True)
NOTED = Noted("vm", MetadataEntry(L4.id, L4.name, GPU.address, (AUDIO.address,)))


def group(
    gpu: str | None, audio: str | None, *, registered: bool = True, held: bool = False
) -> GroupReport:
    members = (
        GroupMember(replace(GPU, driver=gpu), L4 if registered else None, HELD if held else None),
        GroupMember(replace(AUDIO, driver=audio), None, None),
    )
    return GroupReport(82, members, viable=False, reason=None)


def find(*groups: GroupReport, noted: tuple[Noted, ...] = ()) -> Finding:
    (finding,) = check_interrupted(groups, noted)
    return finding


@pytest.mark.parametrize(("gpu", "audio"), [("vfio-pci", "snd_hda_intel"), ("nvidia", "vfio-pci")])
def test_half_a_group_on_vfio_is_told_with_both_halves(gpu: str, audio: str) -> None:
    finding = find(group(gpu, audio))
    assert finding.severity == "warning"
    assert "0000:a2:00.0" in finding.message
    assert "0000:a2:00.1" in finding.message
    assert "devices unbind l4-gpu --scope group" in (finding.cure or "")


@pytest.mark.parametrize(
    "whole",
    [
        group("nvidia", "snd_hda_intel"),
        group("vfio-pci", "vfio-pci"),
        group("vfio-pci", None),
        group("vfio-pci", "snd_hda_intel", registered=False),
        group("vfio-pci", "snd_hda_intel", held=True),
    ],
)
def test_whole_groups_and_those_of_others_are_well(whole: GroupReport) -> None:
    assert find(whole) == Finding("interrupted", "ok", "no operation was interrupted")


@pytest.mark.parametrize(
    ("audio", "cure"),
    [
        ("vfio-pci", "virsh nodedev-reattach pci_0000_a2_00_1; virsh metadata vm"),
        (None, "echo 0000:a2:00.1 > /sys/bus/pci/drivers_probe; virsh metadata vm"),
        ("snd_hda_intel", "virsh metadata vm urn:hypeman:libvirt:devices:1 --remove"),
    ],
)
def test_what_a_domain_notes_and_does_not_hold_is_told_with_its_cure(
    audio: str | None, cure: str
) -> None:
    finding = find(group("nvidia", audio, registered=False), noted=(NOTED,))
    assert "vm names l4-gpu (0000:a2:00.0), which it does not hold" in finding.message
    assert (finding.cure or "").startswith(cure)


def test_a_card_that_a_domain_has_elsewhere_than_it_is_registered_is_told_with_the_cure() -> None:
    (finding,) = check_interrupted((), (), [NOTED])
    assert finding.severity == "warning"
    assert "vm has l4-gpu at 0000:a2:00.0" in finding.message
    assert "devices move l4-gpu --pci-address 0000:a2:00.0" in (finding.cure or "")
