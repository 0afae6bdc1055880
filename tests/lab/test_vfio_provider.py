"""A virtual function whose driver gives it to guests itself, as NVIDIA's does with vGPUs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.guest import NVME, Guest, node_name, until
from tests.lab.service import Service

pytestmark = pytest.mark.lab

PHYSICAL = f"/sys/bus/pci/devices/{NVME}"
DRIVER, TYPE = "vlab_vgpu", "1155"
MAKE = f"""
modprobe {DRIVER}
echo 0 > {PHYSICAL}/sriov_drivers_autoprobe
echo 1 > {PHYSICAL}/sriov_numvfs
function=$(basename $(readlink {PHYSICAL}/virtfn0))
echo {DRIVER} > {PHYSICAL}/virtfn0/driver_override
echo $function > /sys/bus/pci/drivers_probe
echo {TYPE} > {PHYSICAL}/virtfn0/nvidia/current_vgpu_type
echo $function
"""
UNMAKE = f"""
virsh destroy work
echo 0 > {PHYSICAL}/sriov_numvfs
echo 1 > {PHYSICAL}/sriov_drivers_autoprobe
"""


@pytest.fixture
def vgpu(guest: Guest) -> Iterator[str]:
    """Make a vGPU on a virtual function, and return its address."""
    address = guest.lab.output(MAKE)
    until(lambda: node_name(address) in guest.virsh("nodedev-list"))
    yield address
    guest.lab.exec(UNMAKE)


@pytest.fixture
def is_old(image: str) -> bool:
    """Whether libvirt is older than 9.7, and knows vfio-pci alone."""
    return image == "stable"


def state(guest: Guest, address: str) -> tuple[str | None, str]:
    """Return the driver of a virtual function and the type of its vGPU."""
    directory = f"/sys/bus/pci/devices/{address}"
    found = guest.lab.exec(f"cat {directory}/nvidia/current_vgpu_type").stdout.strip()
    return guest.lab.driver(address), found


def test_it_is_ready_as_it_is_and_stays_so(guest: Guest, local_service: Service, vgpu: str) -> None:
    assert local_service.register(vgpu, "vgpu")["bound_to_vfio"]
    assert local_service.available()[vgpu]["current_driver"] == DRIVER
    assert local_service.bind("vgpu")["bound_to_vfio"]
    assert local_service.unbind("vgpu")["bound_to_vfio"]
    assert 'managed="no"' in local_service.http.get("/devices/vgpu/hostdev.xml").text
    local_service.answer("DELETE", "/devices/vgpu?unbind=device", 204)
    assert state(guest, vgpu) == (DRIVER, TYPE)


@pytest.mark.parametrize("running", [True, False])
def test_an_old_libvirt_would_take_it_from_its_driver_and_is_refused(
    guest: Guest, local_service: Service, vgpu: str, is_old: bool, running: bool
) -> None:
    if not is_old:
        pytest.skip("this libvirt leaves it there")
    local_service.register(vgpu, "vgpu")
    guest.define("work")
    if running:
        guest.start("work")
    ready, errors = local_service.preflight("/devices/vgpu/preflight?instance=work")
    assert not ready
    code, message = local_service.refusal(
        "POST", "/devices/vgpu/attach", 501, instance="work", force=True
    )
    assert code == "not_supported"
    for said in (message, errors["vfio"]):
        assert f"{vgpu} is on {DRIVER}" in said
        assert "libvirt 9.0.0" in said
    assert "9.7.0" in message
    assert "<hostdev" not in guest.virsh("dumpxml work")
    assert state(guest, vgpu) == (DRIVER, TYPE)


@pytest.mark.parametrize("managed", ["yes", "no"])
def test_what_libvirt_itself_does_with_it(
    guest: Guest, vgpu: str, is_old: bool, managed: str
) -> None:
    """This is what the fake host is held to."""
    guest.define("work")
    guest.virsh(f"attach-device work {guest.hostdev(vgpu, managed=managed)} --config")
    started = guest.lab.exec("virsh start work")
    assert (started.returncode == 0) == (managed == "yes" or not is_old), started.stderr
    if managed == "no":
        assert state(guest, vgpu) == (DRIVER, TYPE)
        return
    assert guest.lab.driver(vgpu) == "vfio-pci"
    guest.virsh("destroy work")
    after = None if is_old else "vfio-pci"
    until(lambda: state(guest, vgpu) == (after, ""))
