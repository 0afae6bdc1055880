"""vGPUs that are mediated devices: a PCI device of the lab is cut into them by its driver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.lab.doctor import examine
from tests.lab.guest import DRIVERLESS, Guest, node_name, until
from tests.lab.service import Service

pytestmark = pytest.mark.lab

DIRECTORY = f"/sys/bus/pci/devices/{DRIVERLESS}"
SMALL, LARGE = "LAB-1Q", "LAB-2Q"
UUID = "c2177883-f1bb-47f0-914d-32a22e3a8804"
NODE = f"mdev_{UUID.replace('-', '_')}_{DRIVERLESS.replace(':', '_').replace('.', '_')}"
CUT = f"""
modprobe vlab_mdev
echo vlab_mdev > {DIRECTORY}/driver_override
echo {DRIVERLESS} > /sys/bus/pci/drivers_probe
"""
CODES = """
import json, libvirt, os, time
libvirt.registerErrorHandler(lambda *_: None, None)
connection = libvirt.open("qemu:///system")
parent, uuid = %(parent)r, %(uuid)r

def xml(kind="vlab_mdev-2", uuid=uuid, parent=parent):
    return (f"<device><parent>{parent}</parent><capability type='mdev'><type id='{kind}'/>"
            f"<uuid>{uuid}</uuid></capability></device>")

def code(call):
    try:
        call()
    except libvirt.libvirtError as error:
        return error.get_error_code()
    return 0

define = lambda **more: code(lambda: connection.nodeDeviceDefineXML(xml(**more), 0))
node = lambda: connection.nodeDeviceLookupByName(%(node)r)
domain = lambda name: connection.lookupByName(name)
found = {}
found["no such parent"] = define(parent="pci_0000_99_00_0")
found["bad type"] = define(kind="vlab_mdev-9")
found["define"] = define()
found["uuid taken"] = define()
found["start without it"] = code(lambda: domain("work").create())
found["create"] = code(lambda: node().create(0))
while not os.path.exists(f"/sys/bus/mdev/devices/{uuid}/iommu_group"):
    time.sleep(0.1)
found["create twice"] = code(lambda: node().create(0))
found["autostart"] = code(lambda: node().setAutostart(1))
found["start"] = code(lambda: domain("work").create())
found["start another"] = code(lambda: domain("other").create())
found["destroy in use"] = code(lambda: node().destroy())
found["undefine in use"] = code(lambda: node().undefine(0))
found["is transient"] = [node().isActive(), node().isPersistent()]
found["autostart on a transient one"] = code(lambda: node().setAutostart(1))
found["stop"] = code(lambda: domain("work").destroy())
found["destroy"] = code(lambda: node().destroy())
print(json.dumps(found))
"""
HOSTDEV = (
    "<hostdev mode='subsystem' type='mdev' model='vfio-pci'>"
    f"<source><address uuid='{UUID}'/></source></hostdev>"
)


@pytest.fixture
def gpu(guest: Guest) -> Iterator[str]:
    """Cut the device up, and leave nothing of it."""
    guest.lab.output(CUT)
    until(lambda: "vlab_mdev-2" in guest.virsh(f"nodedev-dumpxml {node_name(DRIVERLESS)}"))
    yield DRIVERLESS
    guest.lab.exec(
        "for name in $(virsh list --name); do virsh destroy $name; done; "
        "for name in $(virsh nodedev-list --cap mdev --all); do "
        "virsh nodedev-destroy $name; virsh nodedev-undefine $name; done; "
        "rm -f /etc/mdevctl.d/*/*-*; rm -f /usr/sbin/mdevctl"
    )


def create(service: Service, name: str, **more: object) -> Any:  # noqa: ANN401
    return service.answer("POST", "/devices", 201, profile=LARGE, name=name, **more)


def profiles(service: Service) -> dict[str, int]:
    listed = service.answer("GET", "/devices/vgpu-profiles", 200)
    return {each["name"]: each["available"] for each in listed}


def mdevs(guest: Guest) -> list[str]:
    return guest.lab.output("ls /sys/bus/mdev/devices").split()


def defined(guest: Guest) -> str:
    return guest.lab.output("mdevctl list --defined || :")


def test_a_vgpu_is_made_given_to_a_domain_and_taken_away(
    guest: Guest, service: Service, gpu: str
) -> None:
    assert profiles(service) == {SMALL: 4, LARGE: 2}
    made = create(service, "slice")
    assert (made["parent"], made["profile"], made["state"]) == (gpu, LARGE, "present")
    assert mdevs(guest) == [made["mdev_uuid"]]
    assert made["iommu_group"] != guest.groups()[gpu]
    assert profiles(service) == {SMALL: 0, LARGE: 1}
    guest.define("work")
    assert service.attach("slice", "work")["attached_domain"] == "work"
    guest.start("work")
    assert guest.holds(made["iommu_group"])
    code, message = service.refusal("DELETE", "/devices/slice", 409)
    assert (code, "work" in message) == ("in_use", True)
    guest.virsh("destroy work")
    assert service.detach("slice")["attached_to"] is None
    assert [device.id for device in service.hypeman.devices.list()] == [made["id"]]
    service.hypeman.devices.delete(made["id"])
    assert (mdevs(guest), defined(guest)) == ([], "")


def test_a_running_domain_gets_one(guest: Guest, service: Service, gpu: str) -> None:
    made = create(service, "slice", parent=gpu)
    guest.define("work")
    guest.start("work")
    assert service.attach("slice", "work")["attached_domain"] == "work"
    assert guest.holds(made["iommu_group"])
    assert made["mdev_uuid"] in guest.virsh("dumpxml work")
    assert made["mdev_uuid"] in guest.virsh("dumpxml work --inactive")
    guest.virsh("destroy work")
    service.detach("slice")


def test_the_parent_stays_on_its_driver_although_libvirt_would_take_it(
    guest: Guest, service: Service, gpu: str
) -> None:
    create(service, "slice")
    service.register(gpu, "whole")
    for force in (False, True):
        code, message = service.refusal("POST", "/devices/whole/bind", 409, force=force)
        assert (code, "registered as slice" in message) == ("in_use", True)
    assert guest.lab.driver(gpu) == "vlab_mdev"
    guest.virsh(f"nodedev-detach {node_name(gpu)}")
    assert mdevs(guest) == []
    until(lambda: service.get("slice")["state"] == "missing")
    service.answer("DELETE", "/devices/slice", 204)
    assert defined(guest) == ""


def test_of_two_clients_one_gets_the_last_slot(guest: Guest, service: Service, gpu: str) -> None:
    create(service, "first", parent=gpu)

    def ask(name: str) -> httpx.Response:
        return service.http.post("/devices", json={"profile": LARGE, "name": name})

    with ThreadPoolExecutor(2) as clients:
        answers = list(clients.map(ask, ["second", "third"]))
    assert sorted(each.status_code for each in answers) == [201, 409]
    (refused,) = [each.json()["code"] for each in answers if each.status_code == 409]
    assert refused == "no_capacity"
    assert len(mdevs(guest)) == 2


def test_what_mdevctl_made_is_available_and_stays_when_it_is_unregistered(
    guest: Guest, service: Service, gpu: str
) -> None:
    guest.lab.output(f"mdevctl start -u {UUID} -p {gpu} --type vlab_mdev-1")
    until(lambda: NODE in guest.virsh("nodedev-list --cap mdev"))
    listed = service.answer("GET", "/devices/available", 200)
    (free,) = [each for each in listed if each.get("mdev_uuid") == UUID]
    assert (free["mdev_type"], free["pci_address"]) == ("vlab_mdev-1", gpu)
    theirs = service.answer("POST", "/devices", 201, mdev_uuid=UUID, name="theirs")
    assert theirs["profile"] == SMALL
    service.answer("DELETE", "/devices/theirs", 204)
    assert mdevs(guest) == [UUID]


def test_persist_is_libvirts_autostart_and_the_doctor_knows_where_that_is_dead(
    guest: Guest, local_service: Service, gpu: str
) -> None:
    made = create(local_service, "slice", persist=True)
    assert made["persistent"]
    assert "auto" in defined(guest)
    severity, cure = examine(guest.lab)["slices"]
    assert severity == "warning"
    assert cure == "ln -s $(command -v mdevctl) /usr/sbin/mdevctl"
    guest.lab.output(cure)
    assert examine(guest.lab)["slices"][0] == "ok"
    rebind = f"echo {gpu} > {DIRECTORY}/driver/unbind; echo {gpu} > /sys/bus/pci/drivers_probe"
    guest.lab.output(rebind)
    until(lambda: mdevs(guest) == [made["mdev_uuid"]])
    until(lambda: local_service.get("slice")["state"] == "present")


def test_what_libvirt_answers(guest: Guest, gpu: str) -> None:
    """This is what the fake host is held to."""
    for name in ("work", "other"):
        guest.define(name)
        guest.lab.put("/var/lib/lab/mdev.xml", HOSTDEV)
        guest.virsh(f"attach-device {name} /var/lib/lab/mdev.xml --config")
    script = CODES % {"parent": node_name(gpu), "uuid": UUID, "node": NODE}
    guest.lab.put("/var/lib/lab/codes.py", script)
    assert json.loads(guest.lab.output("python3 /var/lib/lab/codes.py")) == {
        "no such parent": 67,
        "bad type": 1,
        "define": 0,
        "uuid taken": 1,
        "start without it": 99,
        "create": 0,
        "create twice": 55,
        "autostart": 0,
        "start": 0,
        "start another": 55,
        "destroy in use": 1,
        "undefine in use": 0,
        "is transient": [1, 0],
        "autostart on a transient one": 55,
        "stop": 0,
        "destroy": 0,
    }
