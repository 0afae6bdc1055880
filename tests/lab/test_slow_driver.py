"""What hangs in the kernel: a service that does not wait for it, and finds its way afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypeman_lab import Lab

from tests.lab.guest import DRIVERLESS, GPU, NIC, Guest, until
from tests.lab.service import Service, serving

pytestmark = pytest.mark.lab
_IN_REMOVE = "grep -qs pci_device_remove /proc/$(pgrep -x libvirtd)/task/*/stack"


@pytest.fixture
def hasty(lab: Lab, guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that waits for a second; it comes after the guest, which tidies up."""
    del guest
    directory = tmp_path_factory.mktemp("hasty")
    with serving(lab.uri, directory, operation_timeout=1) as service:
        yield service


def test_it_answers_504_then_busy_and_all_else_goes_on(guest: Guest, hasty: Service) -> None:
    guest.nvidia("remove_ms", 8000)
    hasty.register(GPU, "gpu")
    hasty.register(DRIVERLESS, "edu")
    code, message = hasty.refusal("POST", "/devices/gpu/bind", 504, scope="group")
    assert code == "timeout"
    assert "goes on" in message

    code, _ = hasty.refusal("POST", "/devices/gpu/bind", 409, scope="group")
    assert code == "busy"
    assert not hasty.get("edu")["bound_to_vfio"]
    assert hasty.available()

    until(lambda: hasty.get("gpu")["bound_to_vfio"])
    until(lambda: hasty.http.post("/devices/gpu/bind", json={"scope": "group"}).is_success)
    assert guest.lab.driver(GPU) == "vfio-pci"


def test_a_machine_that_libvirt_does_not_know_holds_up_its_own_device(
    guest: Guest, service: Service, hasty: Service
) -> None:
    """The kernel takes a device from vfio-pci when its last user is gone, and libvirt waits."""
    group = service.register(DRIVERLESS, "edu")["iommu_group"]
    service.bind("edu")
    hasty.register(DRIVERLESS, "edu")
    hasty.register(NIC, "nic")
    guest.lab.output(
        "qemu-system-x86_64 -nodefaults -display none -machine q35 -m 64 -S -daemonize "
        f"-pidfile /run/unknown.pid -device vfio-pci,host={DRIVERLESS}"
    )
    try:
        assert guest.holds(group)
        code, _ = hasty.refusal("POST", "/devices/edu/unbind", 504)
        assert code == "timeout"
        code, _ = hasty.refusal("POST", "/devices/edu/unbind", 409)
        assert code == "busy"
        assert hasty.get("edu")["state"] == "present"
        assert not hasty.get("nic")["bound_to_vfio"]
    finally:
        guest.lab.output("kill $(cat /run/unknown.pid)")
    until(lambda: hasty.http.post("/devices/edu/unbind").is_success)
    assert guest.lab.driver(DRIVERLESS) is None


def test_a_libvirtd_that_dies_in_the_middle_leaves_a_device_that_can_be_bound(
    guest: Guest, service: Service
) -> None:
    service.register(GPU, "gpu")
    guest.nvidia("remove_ms", 8000)
    with ThreadPoolExecutor(1) as pool:
        binding = pool.submit(service.refusal, "POST", "/devices/gpu/bind", 503, scope="group")
        until(lambda: binding.done() or guest.lab.exec(_IN_REMOVE).returncode == 0)
        guest.lab.stop_libvirtd("KILL")
        code, _ = binding.result()
    assert code == "libvirt_unavailable"

    guest.lab.start_libvirtd()
    guest.nvidia("remove_ms", 0)
    assert service.get("gpu")["bound_to_vfio"] == (guest.lab.driver(GPU) == "vfio-pci")
    assert service.bind("gpu", scope="group")["bound_to_vfio"]
    assert not service.unbind("gpu", scope="group")["bound_to_vfio"]
    assert guest.drivers() == guest.at_boot


def test_a_libvirtd_that_hangs_holds_up_nobody_for_long(guest: Guest, service: Service) -> None:
    """Stopped, it keeps its connections; only the keepalive can tell."""
    assert service.available()
    guest.lab.output("pkill -STOP -x libvirtd")
    try:
        until(lambda: service.http.get("/devices/available").status_code == 503)
        assert service.http.get("/health").status_code == 200
        assert service.http.get("/ready").status_code == 503
    finally:
        guest.lab.output("pkill -CONT -x libvirtd")
    until(lambda: service.http.get("/devices/available").status_code == 200)
