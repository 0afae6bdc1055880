"""Guests whose disks lie on the NVMe of the host, seen by the service on that host.

Nobody mounts anything of it: the host itself can do without the NVMe, the guest cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab.guest import NVME, Guest, until
from tests.lab.service import Service

pytestmark = pytest.mark.lab

DISK = "/dev/nvme0n1"
BY_ID = "/dev/disk/by-id/nvme-of-the-lab"
LOOP = "/dev/loop7"
PARTITION = 1
SECRET = "echo secret | cryptsetup --key-file -"
LUKS = "--batch-mode --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000"
NVME_DISK = """\
<disk type='nvme' device='disk'>
  <source type='pci' managed='yes' namespace='1'>
    <address domain='0x0000' bus='0x03' slot='0x00' function='0x0'/>
  </source>
  <target dev='vda' bus='virtio'/>
</disk>
"""


def steps(*commands: str) -> str:
    """Return a command that ends with the first of these that fails."""
    return " && ".join(commands)


STAGES = {
    "disk": ("true", DISK, "true"),
    "partition": (
        f"addpart {DISK} {PARTITION} 2048 65536 && udevadm settle",
        f"{DISK}p{PARTITION}",
        f"delpart {DISK} {PARTITION}",
    ),
    "loop": (f"losetup {LOOP} {DISK}", LOOP, f"losetup -d {LOOP}"),
    "link": (f"mkdir -p /dev/disk/by-id && ln -s {DISK} {BY_ID}", BY_ID, f"rm {BY_ID}"),
    "device mapper": (
        f"echo 0 32768 linear {DISK} 0 | dmsetup create lab-guest && dmsetup mknodes",
        "/dev/mapper/lab-guest",
        "dmsetup remove lab-guest",
    ),
    "lvm": (
        f"vgcreate -y lab {DISK} && lvcreate -y -n guest -l 100%FREE lab",
        "/dev/lab/guest",
        f"vgremove -ff -y lab && pvremove -ff -y {DISK} && wipefs -a {DISK}",
    ),
    "luks": (
        steps(f"{SECRET} luksFormat {LUKS} {DISK}", f"{SECRET} open {DISK} lab-luks"),
        "/dev/mapper/lab-luks",
        f"cryptsetup close lab-luks && wipefs -a {DISK}",
    ),
    "md": (
        f"mdadm --create /dev/md7 --run --level=1 --force --raid-devices=1 {DISK}",
        "/dev/md7",
        f"mdadm --stop /dev/md7 && wipefs -a {DISK}",
    ),
    "partition, md, luks, lvm": (
        steps(
            f"addpart {DISK} {PARTITION} 2048 65536",
            "udevadm settle",
            f"mdadm --create /dev/md7 --run --level=1 --force --raid-devices=1 {DISK}p{PARTITION}",
            f"{SECRET} luksFormat {LUKS} /dev/md7",
            f"{SECRET} open /dev/md7 lab-luks",
            "vgcreate -y lab /dev/mapper/lab-luks",
            "lvcreate -y -n guest -l 100%FREE lab",
        ),
        "/dev/lab/guest",
        steps(
            "{ vgremove -ff -y lab || true; }",
            "{ cryptsetup close lab-luks || true; }",
            "{ mdadm --stop /dev/md7 || true; }",
            f"wipefs -a {DISK}p{PARTITION}",
            f"delpart {DISK} {PARTITION}",
        ),
    ),
}
"""What makes a disk of the NVMe, its path, and what takes it away."""


@contextmanager
def staged(guest: Guest, stage: str) -> Iterator[str]:
    make, path, unmake = STAGES[stage]
    try:
        guest.lab.output(make)
        yield path
    finally:
        for name in ("one", "other"):
            guest.lab.exec(f"virsh destroy {name}")
        until(lambda: guest.lab.exec(unmake).returncode == 0, 60)


def give_disk(guest: Guest, name: str, xml: str) -> str:
    """Define a domain with that disk, and return its UUID."""
    uuid = guest.define(name)
    guest.lab.put(f"/var/lib/lab/{name}.disk.xml", xml)
    guest.virsh(f"attach-device {name} /var/lib/lab/{name}.disk.xml --config")
    return uuid


def block_disk(path: str) -> str:
    return (
        "<disk type='block' device='disk'><driver name='qemu' type='raw'/>"
        f"<source dev='{path}'/><target dev='vda' bus='virtio'/></disk>"
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_of_a_running_guest_stays_with_the_host_whatever_it_is_made_of(
    guest: Guest, local_service: Service, stage: str
) -> None:
    local_service.register(NVME, "nvme")
    with staged(guest, stage) as path:
        uuid = give_disk(guest, "one", block_disk(path))
        guest.define("other")
        guest.start("one")
        ready, errors = local_service.preflight("/devices/nvme/preflight")
        assert not ready
        assert f"domain one (UUID {uuid}, running)" in errors["in_use"]
        assert f"disk vda on {path}" in errors["in_use"]
        for action, body in (
            ("bind", {"force": True}),
            ("attach", {"instance": "other", "force": True}),
            ("attach", {"instance": "one", "force": True}),
        ):
            code, message = local_service.refusal("POST", f"/devices/nvme/{action}", 409, **body)
            assert code == "in_use"
            assert "domain one" in message
        code, _ = local_service.refusal("DELETE", "/devices/nvme", 409)
        assert code == "in_use"
        assert guest.lab.driver(NVME) == "nvme"
        assert guest.virsh("domstate one").strip() == "running"

        guest.virsh("destroy one")
        guest.virsh("undefine one")
    assert local_service.bind("nvme")["bound_to_vfio"]
    local_service.unbind("nvme")


def test_a_disk_of_type_nvme_is_the_device_itself(guest: Guest, local_service: Service) -> None:
    local_service.register(NVME, "nvme")
    uuid = give_disk(guest, "one", NVME_DISK)
    guest.define("other")
    assert local_service.get("nvme")["attached_to"] == uuid
    code, message = local_service.refusal("POST", "/devices/nvme/attach", 409, instance="other")
    assert code == "in_use"
    assert "domain one" in message
    code, _ = local_service.refusal("DELETE", "/devices/nvme", 409)
    assert code == "in_use"
