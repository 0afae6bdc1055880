"""The service on the host itself, where it sees what the host's disks and NICs are for."""

from __future__ import annotations

import pytest
from hypeman_lab import Lab

from tests.lab.doctor import examine
from tests.lab.guest import DRIVERLESS, NVME, ROOT_DISK, Guest, node_name, until
from tests.lab.inside import is_ready
from tests.lab.service import Service

pytestmark = pytest.mark.lab


def test_what_carries_the_root_is_refused_and_an_unmounted_disk_is_not(
    guest: Guest, local_service: Service
) -> None:
    local_service.register(ROOT_DISK, "root")
    local_service.register(NVME, "nvme")
    code, message = local_service.refusal("POST", "/devices/root/bind", 409)
    assert code == "critical_device"
    assert "the host lives on it" in message
    assert "vda carries /" in message
    assert guest.lab.driver(ROOT_DISK) == "virtio-pci"

    assert local_service.bind("nvme")["bound_to_vfio"]
    assert guest.lab.driver(NVME) == "vfio-pci"


def test_a_driver_that_somebody_changes_is_in_the_very_next_answer(
    guest: Guest, local_service: Service
) -> None:
    """The service asks libvirt nothing that the kernel shows; no time may lie in between."""
    local_service.register(NVME, "nvme")
    for _ in range(3):
        guest.lab.output(f"echo {NVME} > /sys/bus/pci/devices/{NVME}/driver/unbind")
        assert local_service.available()[NVME]["current_driver"] is None
        guest.lab.output(f"echo {NVME} > /sys/bus/pci/drivers/nvme/bind")
        assert local_service.available()[NVME]["current_driver"] == "nvme"
        guest.virsh(f"nodedev-detach {node_name(NVME)}")
        assert local_service.get("nvme")["bound_to_vfio"]
        guest.virsh(f"nodedev-reattach {node_name(NVME)}")
        assert not local_service.get("nvme")["bound_to_vfio"]


def test_a_definition_that_virsh_changes_is_in_the_very_next_answer(
    guest: Guest, local_service: Service
) -> None:
    """libvirt announces no ``--config`` change of a domain."""
    local_service.register(NVME, "nvme")
    uuid = guest.define("quiet")
    hostdev = guest.hostdev(NVME)
    for _ in range(3):
        guest.virsh(f"attach-device quiet {hostdev} --config")
        assert local_service.get("nvme")["attached_to"] == uuid
        guest.virsh(f"detach-device quiet {hostdev} --config")
        assert local_service.get("nvme")["attached_to"] is None
    guest.virsh(f"attach-device quiet {hostdev} --config")
    guest.virsh("undefine quiet")
    assert local_service.get("nvme")["attached_to"] is None


def test_the_doctor_finds_a_host_for_passthrough_well(lab: Lab, local_service: Service) -> None:
    findings = examine(lab)
    for question in ("libvirt", "node_devices", "iommu", "vfio"):
        assert findings[question] == ("ok", "")
    assert local_service.available()


def test_the_doctor_tells_a_libvirtd_that_is_down(lab: Lab, local_service: Service) -> None:
    lab.stop_libvirtd()
    try:
        severity, cure = examine(lab)["libvirt"]
    finally:
        lab.start_libvirtd()
    assert severity == "error"
    assert "systemctl enable --now libvirtd.socket" in cure
    until(lambda: is_ready(local_service))


@pytest.mark.usefixtures("local_service")
def test_the_doctor_tells_a_socket_that_lets_nobody_in(lab: Lab) -> None:
    before = lab.output("stat -c %a /run/libvirt/libvirt-sock").strip()
    lab.output("chmod 700 /run/libvirt/libvirt-sock")
    try:
        severity, cure = examine(lab, user="nobody")["libvirt"]
    finally:
        lab.output(f"chmod {before} /run/libvirt/libvirt-sock")
    assert severity == "error"
    assert "contrib/polkit" in cure


@pytest.mark.usefixtures("local_service")
def test_the_doctor_tells_a_kernel_without_vfio(lab: Lab) -> None:
    modules = "/lib/modules/$(uname -r)/modules.dep"
    lab.output(f"modprobe -r vfio-pci && mv {modules} /run/modules.dep && : > {modules}")
    try:
        severity, cure = examine(lab)["vfio"]
    finally:
        lab.output(f"mv /run/modules.dep {modules} && modprobe vfio-pci")
    assert severity == "error"
    assert "linux-image" in cure


def test_what_virsh_does_to_a_domain_decides_the_very_next_change(
    guest: Guest, local_service: Service
) -> None:
    """The service reads no domain whose file libvirt has not replaced; no time may lie between."""
    local_service.register(DRIVERLESS, "card")
    guest.define("vm-off")
    hostdev = guest.hostdev(DRIVERLESS)
    for _ in range(5):
        guest.virsh(f"attach-device vm-off {hostdev} --config")
        code, message = local_service.refusal("DELETE", "/devices/card", 409)
        assert (code, "vm-off" in message) == ("in_use", True)
        guest.virsh(f"detach-device vm-off {hostdev} --config")
        local_service.attach("card", "vm-off")
        local_service.detach("card")
    guest.start("vm-off")
    guest.virsh(f"attach-device vm-off {hostdev} --live")
    code, message = local_service.refusal("DELETE", "/devices/card", 409)
    assert (code, "vm-off" in message) == ("in_use", True)
    guest.virsh("destroy vm-off")
    local_service.answer("DELETE", "/devices/card", 204)
