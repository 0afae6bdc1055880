"""A card on vfio-pci that has virtual functions: they go when it leaves, and need a token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.guest import NVME, Guest, node_name, until
from tests.lab.service import Service

pytestmark = pytest.mark.lab

PHYSICAL = f"/sys/bus/pci/devices/{NVME}"
ENABLE = "/sys/module/vfio_pci/parameters/enable_sriov"


@pytest.fixture
def function(guest: Guest, service: Service) -> Iterator[str]:
    """Put the NVMe on vfio-pci, give it a virtual function there, and return that one's address."""
    service.register(NVME, "nvme")
    service.bind("nvme", force=True)
    guest.lab.write(ENABLE, "Y")
    guest.lab.write(f"{PHYSICAL}/sriov_numvfs", 1)
    address = guest.lab.output(f"basename $(readlink {PHYSICAL}/virtfn0)")
    until(lambda: address in service.available())
    yield address
    guest.lab.exec("virsh destroy work")
    guest.lab.exec(f"echo 0 > {PHYSICAL}/sriov_numvfs; echo N > {ENABLE}")


def test_the_card_stays_while_a_function_is_registered_or_in_a_domain(
    guest: Guest, service: Service, function: str
) -> None:
    service.register(function, "slice")
    code, message = service.refusal("POST", "/devices/nvme/unbind", 409)
    assert code == "sriov_active"
    assert f"{function} (registered as slice)" in message
    code, _ = service.refusal("DELETE", "/devices/nvme?unbind=device", 409)
    assert code == "sriov_active"
    service.answer("DELETE", "/devices/slice", 204)

    uuid = guest.define("work")
    guest.virsh(f"attach-device work {guest.hostdev(function)} --config")
    code, message = service.refusal("POST", "/devices/nvme/unbind", 409)
    assert code == "sriov_active"
    assert f"{function} (domain work (UUID {uuid}, shut off))" in message
    assert guest.lab.driver(NVME) == "vfio-pci"
    assert function in guest.lab.addresses()

    guest.virsh("undefine work")
    assert not service.unbind("nvme")["bound_to_vfio"]
    assert function not in guest.lab.addresses()


def test_a_function_of_a_card_on_vfio_pci_needs_a_token(
    guest: Guest, service: Service, function: str
) -> None:
    service.register(function, "slice")
    guest.define("work")
    guest.start("work")
    code, message = service.refusal("POST", "/devices/slice/attach", 409, instance="work")
    assert code == "vfio_unavailable"
    assert f"virtual function of {NVME}, which is on vfio-pci itself" in message

    refused = guest.lab.exec(f"virsh attach-device work {guest.hostdev(function)} --live")
    assert refused.returncode
    assert "Permission denied" in refused.stderr
    assert "VF token required" in guest.lab.output("dmesg")
    assert node_name(function) in guest.virsh("nodedev-list --cap pci")
