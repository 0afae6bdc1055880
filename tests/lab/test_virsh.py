"""What people do with virsh meanwhile is true in the next answer, and our XML suits virsh."""

from __future__ import annotations

import pytest

from tests.lab.guest import AUDIO, DRIVERLESS, GPU, NIC, Guest, node_name, until
from tests.lab.service import Service

pytestmark = pytest.mark.lab


def test_what_virsh_does_to_drivers_is_true_in_the_next_answer(
    guest: Guest, service: Service
) -> None:
    service.register(DRIVERLESS, "edu")
    guest.virsh(f"nodedev-detach {node_name(DRIVERLESS)}")
    assert service.get("edu")["bound_to_vfio"]
    guest.virsh(f"nodedev-reattach {node_name(DRIVERLESS)}")
    assert not service.get("edu")["bound_to_vfio"]


def test_what_virsh_does_to_domains_is_true_in_the_next_answer(
    guest: Guest, service: Service
) -> None:
    service.register(NIC, "nic")
    uuid = guest.define("work")
    hostdev = guest.hostdev(NIC)
    guest.start("work")
    guest.virsh(f"attach-device work {hostdev} --live")
    now = service.get("nic")
    assert (now["attached_to"], now["bound_to_vfio"]) == (uuid, True)
    assert service.available()[NIC]["attached_to"] == uuid

    guest.virsh("destroy work")
    until(lambda: not service.get("nic")["bound_to_vfio"])
    assert service.get("nic")["attached_to"] is None

    guest.virsh(f"attach-device work {hostdev} --config")
    assert service.get("nic")["attached_to"] == uuid
    guest.virsh(f"detach-device work {hostdev} --config")
    assert service.get("nic")["attached_to"] is None

    guest.virsh(f"attach-device work {hostdev} --config")
    guest.virsh("undefine work")
    assert service.get("nic")["attached_to"] is None


def test_virsh_gives_a_running_guest_our_xml_and_takes_the_device_back(
    guest: Guest, service: Service
) -> None:
    service.register(NIC, "nic")
    path = _save_xml(guest, service, "nic", "device")
    uuid = guest.define("work", answers=True)
    guest.start("work")
    guest.await_user_space("work")
    guest.virsh(f"attach-device work {path} --live")
    assert service.get("nic")["attached_to"] == uuid

    guest.virsh(f"detach-device work {path} --live")
    until(lambda: "<hostdev" not in guest.virsh("dumpxml work"))
    assert service.get("nic")["attached_to"] is None
    until(lambda: not service.get("nic")["bound_to_vfio"])
    assert guest.lab.driver(NIC) == "e1000e"


def test_virsh_takes_our_xml_of_a_group_line_by_line(guest: Guest, service: Service) -> None:
    service.register(GPU, "gpu")
    service.register(AUDIO, "audio")
    path = _save_xml(guest, service, "gpu", "group")
    uuid = guest.define("work")
    _virsh_each_line(guest, "attach-device", path)
    assert {service.get(name)["attached_to"] for name in ("gpu", "audio")} == {uuid}

    guest.start("work")
    assert guest.holds(service.get("gpu")["iommu_group"])
    slots = [held.rpartition(" function=")[0] for held in guest.guest_addresses("work")]
    assert (len(slots), len(set(slots))) == (2, 1)

    guest.virsh("destroy work")
    until(lambda: guest.drivers() == guest.at_boot)
    _virsh_each_line(guest, "detach-device", path)
    assert {service.get(name)["attached_to"] for name in ("gpu", "audio")} == {None}


def test_of_two_definitions_the_one_that_runs_holds_the_device(
    guest: Guest, service: Service
) -> None:
    """libvirt lets both be defined, and refuses the second start."""
    service.register(DRIVERLESS, "edu")
    hostdev = guest.hostdev(DRIVERLESS)
    uuids = [guest.define(name) for name in ("first", "second")]
    for name in ("first", "second"):
        guest.virsh(f"attach-device {name} {hostdev} --config")
    assert service.get("edu")["attached_to"] in uuids

    guest.start("second")
    assert guest.lab.exec("virsh start first").returncode != 0
    assert service.get("edu")["attached_to"] == uuids[1]


def _save_xml(guest: Guest, service: Service, name: str, scope: str) -> str:
    """Write hostdev.xml into a file inside, and return its path."""
    answer = service.http.get(f"/devices/{name}/hostdev.xml", params={"scope": scope})
    assert answer.is_success, answer.text
    path = f"/var/lib/lab/{name}.xml"
    guest.lab.put(path, answer.text)
    return path


def _virsh_each_line(guest: Guest, command: str, path: str) -> None:
    guest.lab.output(
        f"grep '<hostdev' {path} | while read -r element; do "
        f'echo "$element" | virsh {command} work /dev/stdin --config || exit 1; done'
    )
