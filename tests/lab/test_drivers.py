"""Between host drivers and vfio-pci: the driver really changes, or nothing does."""

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
    REFUSED_GPU,
    ROOT_DISK,
    Guest,
)
from tests.lab.service import Service

pytestmark = pytest.mark.lab


@pytest.mark.parametrize(
    ("address", "scope", "force"),
    [(DRIVERLESS, "device", False), (NVME, "device", True), (GPU, "group", False)],
    ids=["driverless", "nvme", "gpu"],
)
def test_a_device_goes_to_vfio_and_comes_back(
    guest: Guest, service: Service, address: str, scope: str, *, force: bool
) -> None:
    service.register(address, "it")
    assert service.bind("it", scope=scope, force=force)["bound_to_vfio"]
    assert guest.lab.driver(address) == "vfio-pci"
    assert not service.unbind("it", scope=scope)["bound_to_vfio"]
    assert guest.drivers() == guest.at_boot


def test_a_disk_whose_mounts_cannot_be_seen_needs_force(guest: Guest, service: Service) -> None:
    service.register(NVME, "nvme")
    code, message = service.refusal("POST", "/devices/nvme/bind", 409)
    assert code == "critical_device"
    assert "its mounts cannot be seen from here" in message
    assert guest.lab.driver(NVME) == "nvme"


def test_the_disk_that_the_host_lives_on_is_refused(guest: Guest, service: Service) -> None:
    service.register(ROOT_DISK, "root")
    code, message = service.refusal("POST", "/devices/root/bind", 409)
    assert code == "critical_device"
    assert "vda" in message
    assert guest.lab.driver(ROOT_DISK) == "virtio-pci"


def test_asking_twice_does_not_bounce_the_host_driver(guest: Guest, service: Service) -> None:
    service.register(NIC, "nic")
    ifindex = guest.lab.ifindex(NIC)
    service.unbind("nic")
    assert guest.lab.ifindex(NIC) == ifindex

    service.bind("nic")
    assert service.bind("nic")["bound_to_vfio"]
    service.unbind("nic")
    returned = guest.lab.ifindex(NIC)
    assert returned != ifindex
    service.unbind("nic")
    assert guest.lab.ifindex(NIC) == returned


def test_a_device_that_vfio_refuses_is_given_back(guest: Guest, service: Service) -> None:
    service.register(REFUSED_GPU, "old")
    code, _ = service.refusal("POST", "/devices/old/bind", 409)
    assert code == "vfio_unavailable"
    assert guest.lab.driver(REFUSED_GPU) == "nvidia"
    assert not service.get("old")["bound_to_vfio"]


def test_registering_and_binding_is_both_or_neither(guest: Guest, service: Service) -> None:
    code, _ = service.refusal("POST", "/devices", 409, pci_address=REFUSED_GPU, bind="device")
    assert code == "vfio_unavailable"
    assert service.hypeman.devices.list() == []
    assert guest.lab.driver(REFUSED_GPU) == "nvidia"


def test_a_device_that_its_host_driver_refuses_stays_on_vfio(
    guest: Guest, service: Service
) -> None:
    service.register(GPU, "gpu")
    service.bind("gpu", scope="group")
    guest.nvidia("probe_err", 19)
    code, message = service.refusal("POST", "/devices/gpu/unbind", 409, scope="group")
    assert code == "driver_not_bound"
    assert "nvidia" in message
    assert guest.lab.driver(GPU) == "vfio-pci"
    assert guest.lab.driver(AUDIO) == "vfio-pci"


def test_a_bridge_is_no_obstacle_but_a_neighbour_is(guest: Guest, service: Service) -> None:
    first, second = BRIDGED
    service.register(first, "nic")
    code, message = service.refusal("POST", "/devices/nic/bind", 409)
    assert code == "iommu_group_conflict"
    assert second in message
    assert BRIDGE not in message

    assert service.bind("nic", scope="group")["bound_to_vfio"]
    assert {guest.lab.driver(each) for each in BRIDGED} == {"vfio-pci"}
    assert guest.lab.driver(BRIDGE) == guest.at_boot[BRIDGE]
    service.unbind("nic", scope="group")
    assert guest.drivers() == guest.at_boot
