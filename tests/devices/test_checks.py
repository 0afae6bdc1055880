"""The checks on snapshots that no driver of libvirt's tests can be brought into."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from hypeman_libvirt.devices import checks
from hypeman_libvirt.devices.address import MdevUuid, PciAddress
from hypeman_libvirt.devices.domain import Assignment, AssignmentKind, Domain
from hypeman_libvirt.devices.model import Registration
from hypeman_libvirt.devices.node_device import HostUse, NodeDevice
from hypeman_libvirt.devices.ports import AssignmentsByDevice
from hypeman_libvirt.devices.rules import first_assignment
from hypeman_libvirt.devices.snapshot import Purpose, Snapshot
from tests.devices.test_bind import refusal

NVME = PciAddress.parse("0000:01:00.0")
VF = PciAddress.parse("0000:01:00.1")
VGPU = MdevUuid("9d4e1f0a-6b1c-4f6e-8a55-1f2e3d4c5b6a")
ON, OFF = (
    Domain(uuid="u-on", name="vm-on", state="running", active=True, persistent=True),
    Domain(uuid="u-off", name="vm-off", state="shut off", active=False, persistent=True),
)
REGISTRATION = Registration(
    id="i",
    host="h",
    pci_address=NVME,
    name="disk",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    created_by=None,
    vendor_id="144d",
    device_id="a808",
    class_code=0x010802,
    serial=None,
    iommu_group=7,
)
INDIRECT: tuple[AssignmentKind, ...] = (
    *("block_disk", "scsi", "scsi_host", "usb", "vdpa", "mdev", "macvtap", "char_device"),
)


def node(address: PciAddress = NVME, **facts: object) -> NodeDevice:
    plain = NodeDevice(
        address.node_device_name,
        address,
        "144d",
        "a808",
        class_code=0x010802,
        driver="nvme",
        iommu_group=7,
    )
    return replace(plain, **facts)  # type: ignore[arg-type]


def snapshot(purpose: Purpose, *has: Assignment, of: NodeDevice | None = None) -> Snapshot:
    device = of or node()
    return Snapshot(
        purpose,
        device.address,
        device,
        replace(REGISTRATION, pci_address=device.address),
        group=[device],
        taking=[device],
        assignments={device.address: has},
    )


def has(domain: Domain, kind: AssignmentKind, via: str | None = None) -> Assignment:
    return Assignment(domain, NVME, domain.active, True, False, kind, via)


@pytest.mark.parametrize("kind", INDIRECT)
@pytest.mark.parametrize("domain", [ON, OFF])
@pytest.mark.parametrize("purpose", ["bind", "attach"])
def test_what_a_domain_lives_on_is_in_use_even_by_force(
    kind: AssignmentKind, domain: Domain, purpose: Purpose
) -> None:
    taken = snapshot(purpose, has(domain, kind, "disk vda on /dev/nvme0n1p2"))
    for within in (taken, replace(taken, domain=domain)):
        with refusal("in_use") as error:
            checks.guard(within, force=True)
        assert f"by domain {domain.name} (UUID {domain.uuid}, {domain.state})" in str(error.value)
        assert "through disk vda on /dev/nvme0n1p2; take disk vda on" in str(error.value)


@pytest.mark.parametrize("kind", [*INDIRECT, "hostdev", "interface", "nvme_disk"])
def test_whatever_a_domain_has_is_not_unregistered(kind: AssignmentKind) -> None:
    with refusal("in_use"):
        checks.guard(snapshot("unregister", has(OFF, kind)))


def test_a_device_is_attached_to_the_domain_that_has_it_itself() -> None:
    through, itself = has(ON, "block_disk", "disk vda"), has(OFF, "nvme_disk")
    assert first_assignment({NVME: [through, itself]}, NVME) == itself
    assert first_assignment({NVME: [through]}, NVME) is None
    assert Assignment(ON, VGPU, True, True, False, "mdev").direct
    assert not Assignment(ON, NVME, True, True, False, "mdev", f"mdev {VGPU}").direct


def test_a_disk_of_a_domain_is_not_detached_as_if_it_were_a_hostdev() -> None:
    with refusal("in_use") as error:
        checks.guard(snapshot("detach", has(ON, "nvme_disk")))
    assert "take its disk out of the domain first" in str(error.value)


def test_a_function_that_shares_its_guest_slot_is_not_unplugged_but_from_a_definition() -> None:
    shared = replace(has(ON, "hostdev"), shares_slot=True)
    with refusal("not_supported") as error:
        checks.guard(snapshot("detach", shared))
    assert "one of several functions in its slot of domain vm-on" in str(error.value)
    checks.guard(snapshot("detach", replace(shared, domain=OFF, live=False)))


def test_a_function_with_wanted_virtual_functions_is_not_given_back() -> None:
    physical = node(driver="vfio-pci", virtual_functions=(VF,))
    given_back = snapshot("unbind", of=physical)
    checks.guard(given_back)
    registered = replace(REGISTRATION, pci_address=VF, name="slice")
    with refusal("sriov_active") as error:
        checks.guard(replace(given_back, registered_functions={VF: registered}))
    assert f"{VF} (registered as slice)" in str(error.value)
    held: AssignmentsByDevice = {VF: [replace(has(OFF, "interface"), device=VF)]}
    with refusal("sriov_active") as error:
        checks.guard(replace(given_back, assignments=held))
    assert f"{VF} (domain vm-off" in str(error.value)


def test_a_virtual_function_whose_physical_function_is_on_vfio_is_not_attached() -> None:
    function = node(VF, physical_function=NVME)
    attached = snapshot("attach", of=function)
    checks.guard(replace(attached, physical_functions={NVME: node()}))
    on_vfio = {NVME: node(driver="vfio-pci")}
    with refusal("vfio_unavailable") as error:
        checks.guard(replace(attached, physical_functions=on_vfio))
    assert f"is a virtual function of {NVME}, which is on vfio-pci itself" in str(error.value)


def test_force_overrides_the_host_and_nothing_else() -> None:
    used = replace(snapshot("bind"), uses=[HostUse(NVME, "nvme0n1p2 carries /")])
    with refusal("critical_device"):
        checks.guard(used)
    checks.guard(used, force=True)
    with refusal("vfio_unavailable"):
        checks.guard(replace(used, has_vfio=False), force=True)


def test_what_is_done_already_is_not_refused_and_preflight_warns_only() -> None:
    bound = snapshot("bind", of=node(driver="vfio-pci"))
    done = replace(bound, has_vfio=False)
    checks.guard(done)
    preflight = checks.inspect(done)
    assert preflight.ready
    assert [check.id for check in preflight.checks if check.severity == "warning"] == ["vfio"]


def test_a_registration_that_ended_meanwhile_is_none() -> None:
    for purpose in checks.CHECKS:
        with refusal("not_found"):
            checks.guard(replace(snapshot(purpose), still_registered=False))


def test_an_nvswitch_goes_with_all_others() -> None:
    nvswitch = node(vendor_id="10de", device_id="22a3", class_code=0x068000, driver="nvidia")
    check = checks.check_endpoint(snapshot("bind", of=nvswitch))
    assert check.severity == "warning"
    assert "all NVSwitches of a host belong together" in check.message
