"""The way of a GPU into a domain and back, and a card that is plugged in meanwhile."""

from __future__ import annotations

import pytest

from tests.lab.guest import AUDIO, GPU, NIC, Guest, until
from tests.lab.service import Service

pytestmark = [pytest.mark.lab, pytest.mark.smoke]

GONE = {"missing", "moved"}
"""The machine has a second card of the model that is plugged in. Seen from afar, without a serial
number, that one may be it."""


def test_a_nic_goes_to_vfio_and_comes_back(guest: Guest, service: Service) -> None:
    device = service.hypeman.devices.create(pci_address=NIC, name="nic")
    assert (device.vendor_id, device.device_id, device.type) == ("8086", "10d3", "pci")
    assert not device.bound_to_vfio

    assert service.bind("nic")["bound_to_vfio"]
    assert guest.lab.driver(NIC) == "vfio-pci"
    assert service.hypeman.devices.retrieve("nic").bound_to_vfio

    assert not service.unbind("nic")["bound_to_vfio"]
    assert guest.lab.driver(NIC) == "e1000e"


def test_a_gpu_and_its_audio_function_go_into_a_domain_and_come_back(
    guest: Guest, service: Service
) -> None:
    service.register(GPU, "gpu")
    group = service.get("gpu")["iommu_group"]
    code, message = service.refusal("POST", "/devices/gpu/bind", 409)
    assert code == "iommu_group_conflict"
    assert AUDIO in message

    uuid = guest.define("work")
    assert service.attach("gpu", "work", scope="group")["attached_to"] == uuid
    guest.start("work")
    assert guest.holds(group)
    assert (guest.lab.driver(GPU), guest.lab.driver(AUDIO)) == ("vfio-pci", "vfio-pci")
    assert service.get("gpu")["bound_to_vfio"]

    guest.virsh("destroy work")
    until(lambda: guest.drivers() == guest.at_boot)
    assert service.detach("gpu")["attached_to"] is None
    assert "<hostdev" not in guest.virsh("dumpxml work")


def test_a_card_that_is_plugged_in_is_available_and_one_that_is_pulled_is_gone(
    guest: Guest, service: Service
) -> None:
    address = guest.lab.hotplug()
    try:
        until(lambda: address in service.available())
        service.register(address, "hot")
    finally:
        guest.lab.unplug()
    until(lambda: service.get("hot")["state"] in GONE)
    assert address not in service.available()
    code, _ = service.refusal("POST", "/devices/hot/bind", 409)
    assert code == "identity_changed"
