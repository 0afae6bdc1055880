"""What the service lists is what the kernel and virsh say."""

from __future__ import annotations

import pytest

from tests.lab.guest import (
    AUDIO,
    BRIDGE,
    BRIDGED,
    DRIVERLESS,
    GPU,
    NIC,
    NVME,
    ROOT_DISK,
    ROOT_PORT,
    Guest,
    until,
)
from tests.lab.service import Service

pytestmark = pytest.mark.lab


def test_what_is_available_has_the_drivers_and_groups_of_sysfs(
    guest: Guest, service: Service
) -> None:
    available = service.available()
    assert {NIC, NVME, *BRIDGED, DRIVERLESS, GPU, AUDIO} <= set(available)
    assert {ROOT_PORT, BRIDGE}.isdisjoint(available)
    drivers, groups = guest.drivers(), guest.groups()
    for address, device in available.items():
        assert device["current_driver"] == drivers[address]
        assert device["iommu_group"] == groups[address]
        assert set(device["iommu_group_members"]) == {
            each for each in groups if groups[each] == groups[address]
        }


def test_every_group_of_sysfs_is_listed_with_its_members(guest: Guest, service: Service) -> None:
    listed = {
        member["pci_address"]: group["iommu_group"]
        for group in service.answer("GET", "/iommu-groups", 200)
        for member in group["members"]
    }
    assert listed == guest.groups()


def test_names_and_ids_are_those_of_virsh(guest: Guest, service: Service) -> None:
    nic = service.available()[NIC]
    xml = guest.virsh("nodedev-dumpxml pci_0000_01_00_0")
    product = f"<product id='0x{nic['device_id']}'>{nic['device_name']}</product>"
    assert product in xml
    assert f"<vendor id='0x{nic['vendor_id']}'>{nic['vendor_name']}</vendor>" in xml


def test_registered_devices_are_listed_by_their_tags(service: Service) -> None:
    created = service.hypeman.devices.create(pci_address=GPU, name="gpu", tags={"team": "ml"})
    service.register(NIC, "nic")
    assert created.type == "gpu"
    assert [each.name for each in service.hypeman.devices.list(tags={"team": "ml"})] == ["gpu"]
    assert service.available()[NIC]["registered_as"] == "nic"


def test_a_root_port_is_refused(guest: Guest, service: Service) -> None:
    code, _ = service.refusal("POST", "/devices", 409, pci_address=ROOT_PORT)
    assert code == "not_assignable"
    assert guest.lab.driver(ROOT_PORT) == "pcieport"


def test_virtual_functions_appear_and_vanish_and_hold_their_physical_function(
    guest: Guest, service: Service
) -> None:
    service.register(NVME, "nvme")
    before = set(service.available())
    guest.lab.write(f"/sys/bus/pci/devices/{NVME}/sriov_numvfs", 2)
    try:
        until(lambda: len(set(service.available()) - before) == 2)
        assert set(service.available()) - before <= set(guest.lab.addresses())
        code, message = service.refusal("POST", "/devices/nvme/bind", 409, force=True)
        assert code == "sriov_active"
        assert NVME in message
        assert guest.lab.driver(NVME) == "nvme"
    finally:
        guest.lab.write(f"/sys/bus/pci/devices/{NVME}/sriov_numvfs", 0)
    until(lambda: set(service.available()) == before)


def test_a_device_that_is_torn_out_is_missing_and_found_again(
    guest: Guest, service: Service
) -> None:
    service.register(NIC, "nic")
    guest.lab.write(f"/sys/bus/pci/devices/{NIC}/remove", 1)
    try:
        until(lambda: service.get("nic")["state"] == "missing")
        code, _ = service.refusal("POST", "/devices/nic/bind", 409)
        assert code == "identity_changed"
    finally:
        guest.lab.write("/sys/bus/pci/rescan", 1)
    until(lambda: service.get("nic")["state"] == "present")


def test_a_device_that_is_torn_out_of_a_running_domain_is_missing_when_that_ends(
    guest: Guest, service: Service
) -> None:
    """The kernel waits for the domain; nobody else may."""
    service.register(DRIVERLESS, "edu")
    uuid = guest.define("work")
    service.attach("edu", "work")
    guest.start("work")
    try:
        guest.lab.output(f"echo 1 > /sys/bus/pci/devices/{DRIVERLESS}/remove &")
        assert service.get("edu")["attached_to"] == uuid
        guest.virsh("destroy work")
        until(lambda: service.get("edu")["state"] == "missing")
        assert service.detach("edu")["attached_to"] is None
    finally:
        guest.lab.write("/sys/bus/pci/rescan", 1)
    until(lambda: service.get("edu")["state"] == "present")


def test_preflight_says_what_stands_in_the_way_and_moves_nothing(
    guest: Guest, service: Service
) -> None:
    service.register(GPU, "gpu")
    guest.define("work")
    ready, errors = service.preflight("/devices/gpu/preflight?instance=work")
    assert (ready, list(errors)) == (False, ["group"])
    assert AUDIO in errors["group"]
    assert service.preflight("/devices/gpu/preflight?instance=work&scope=group") == (True, {})

    ready, errors = service.preflight(f"/devices/preflight?pci_address={ROOT_DISK}")
    assert (ready, list(errors)) == (False, ["critical"])
    assert "vda" in errors["critical"]
    assert guest.drivers() == guest.at_boot


def test_a_libvirtd_that_is_restarted_is_found_again(guest: Guest, service: Service) -> None:
    service.register(NIC, "nic")
    guest.lab.stop_libvirtd("KILL")
    code, _ = service.refusal("GET", "/devices/nic", 503)
    assert code == "libvirt_unavailable"
    guest.lab.start_libvirtd()
    assert service.get("nic")["state"] == "present"
    assert service.bind("nic")["bound_to_vfio"]
