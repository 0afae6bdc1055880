"""Changes whose reply never comes: the connection is cut, or the service is killed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from hypeman_lab import Lab

from tests.lab.guest import AUDIO, GPU, NIC, Guest, until
from tests.lab.service import PATIENCE, Service, serving

pytestmark = pytest.mark.lab

NOTES = "virsh metadata work urn:hypeman:libvirt:devices:1"
MARKED = """\
<hostdev mode='subsystem' type='pci' managed='yes'>
  <source><address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source>
  <alias name='ua-mine'/>
  <rom bar='off'/>
</hostdev>
"""
DEFINITIONS = "/etc/libvirt/qemu"


@pytest.fixture
def work(guest: Guest) -> str:
    """Start a domain that answers hot-unplug, and return its UUID."""
    uuid = guest.define("work", answers=True)
    guest.start("work")
    guest.await_user_space("work")
    return uuid


@contextmanager
def attaching(guest: Guest, service: Service) -> Iterator[Future[httpx.Response]]:
    """Attach the GPU's group, and go on while libvirt waits for its driver to let go."""
    guest.nvidia("remove_ms", 8000)
    body = {"instance": "work", "scope": "group"}
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(service.http.post, "/devices/gpu/attach", json=body)
        until(lambda: guest.lab.driver(AUDIO) == "vfio-pci")
        until(lambda: guest.lab.exec(f"test -e /sys/bus/pci/drivers/nvidia/{GPU}").returncode)
        yield asked
    guest.nvidia("remove_ms", 0)


def patient(lab: Lab, directory: Path) -> AbstractContextManager[Service]:
    """Start a service that gives libvirt and guests all the time that they want."""
    return serving(lab.uri, directory, operation_timeout=PATIENCE, release_timeout=PATIENCE)


def complete(service: Service, uuid: str) -> None:
    """Repeat the request until libvirt has finished what was asked before."""
    body = {"instance": "work", "scope": "group"}
    until(lambda: service.http.post("/devices/gpu/attach", json=body).is_success)
    assert service.get("gpu")["attached_to"] == uuid


def test_a_connection_that_is_cut_in_an_attach_leaves_nothing_behind(
    guest: Guest, service: Service, work: str
) -> None:
    service.register(GPU, "gpu")
    with attaching(guest, service) as asked:
        guest.lab.output("ss -K state established sport = :16509")
        answer = asked.result()
    assert (answer.status_code, answer.json()["code"]) == (503, "libvirt_unavailable")
    assert "<hostdev" not in guest.virsh("dumpxml work --inactive")

    complete(service, work)
    assert "gpu" in guest.lab.output(NOTES)
    assert guest.virsh("dumpxml work").count("<hostdev ") == 2
    assert service.detach("gpu")["attached_to"] is None
    until(lambda: guest.drivers() == guest.at_boot)


def test_a_service_that_is_killed_in_an_attach_is_completed_by_the_next(
    lab: Lab, guest: Guest, work: str, tmp_path: Path
) -> None:
    with patient(lab, tmp_path) as service:
        service.register(GPU, "gpu")
        with attaching(guest, service) as asked:
            service.kill()
            with suppress(httpx.TransportError):
                asked.result()
    with patient(lab, tmp_path) as service:
        complete(service, work)
        assert "gpu" in guest.lab.output(NOTES)
        assert guest.virsh("dumpxml work").count("<hostdev ") == 2
        assert service.detach("gpu")["attached_to"] is None
        assert guest.lab.exec(NOTES).returncode
        until(lambda: guest.drivers() == guest.at_boot)


def test_a_refused_unregistration_probes_no_host_driver(guest: Guest, service: Service) -> None:
    service.register(NIC, "nic")
    service.bind("nic")
    guest.define("work")
    guest.virsh(f"attach-device work {guest.hostdev(NIC)} --config")
    before = guest.lab.output(f"dmesg | grep -c {NIC}")
    code, message = service.refusal("DELETE", "/devices/nic?unbind=device", 409)
    assert code == "in_use"
    assert "work" in message
    assert guest.lab.output(f"dmesg | grep -c {NIC}") == before
    assert guest.lab.driver(NIC) == "vfio-pci"
    assert service.get("nic")["bound_to_vfio"]


def test_a_detach_whose_definition_cannot_be_written_puts_the_very_element_back(
    guest: Guest, service: Service, work: str
) -> None:
    service.register(NIC, "nic")
    guest.lab.put("/var/lib/lab/marked.xml", MARKED)
    guest.virsh("attach-device work /var/lib/lab/marked.xml --live --config")
    before = hostdev(guest)
    assert "ua-mine" in before
    guest.lab.output(f"mount --bind {DEFINITIONS} {DEFINITIONS}")
    guest.lab.output(f"mount -o remount,bind,ro {DEFINITIONS}")
    try:
        answer = service.http.post("/devices/nic/detach")
        assert answer.status_code == 502, answer.text
    finally:
        guest.lab.output(f"umount {DEFINITIONS}")
    until(lambda: "<hostdev" in guest.virsh("dumpxml work"))
    assert hostdev(guest) == before
    assert service.get("nic")["attached_to"] == work
    assert guest.lab.driver(NIC) == "vfio-pci"
    assert service.detach("nic")["attached_to"] is None
    assert guest.lab.driver(NIC) == "e1000e"


def hostdev(guest: Guest) -> str:
    """Return the one element of the running domain that has a device of the host."""
    xml = guest.virsh("dumpxml work")
    begin, end = xml.index("<hostdev "), xml.index("</hostdev>")
    return xml[begin:end]
