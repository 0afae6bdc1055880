"""Guests that live on the host's devices, from their definitions to who has which device."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import HostUse, NodeDevice
from hypeman_libvirt.host.libvirt_host import LibvirtHost, open_host
from hypeman_libvirt.host.usage.local_host import LocalHost
from tests.fake_host import FakeHost
from tests.host.fake_sysfs import FakeSysfs

NVME = PciAddress.parse("0000:03:00.0")
BLOCK_DISK = "<disk type='block'><source dev='{}'/><target dev='vda'/></disk>"
VOLUME_DISK = "<disk type='volume'><source pool='fast' volume='a'/><target dev='vda'/></disk>"


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    sysfs = FakeSysfs(tmp_path)
    pci = sysfs.add_pci(str(NVME), vendor_id="144d", device_id="a80a")
    sysfs.add_partition(sysfs.add_nvme(0, pci), "nvme0n1p2")
    return sysfs


@pytest.fixture
def host(fake_host: FakeHost, sysfs: FakeSysfs) -> Iterator[LibvirtHost]:
    local = LocalHost(sysfs.root, sysfs.read_interfaces)
    host = open_host(fake_host.uri, local_host=local)
    yield host
    host.close()


def start(fake_host: FakeHost, devices: str, *, running: bool = True) -> None:
    xml = f"<domain type='kvm'><name>vm</name><uuid>{uuid.uuid4()}</uuid>"
    xml += f"<os><type machine='q35'>hvm</type></os><devices>{devices}</devices></domain>"
    fake_host.add_domain_xml(xml, running=running)


def ask(host: LibvirtHost) -> list[tuple[str, str, bool, bool, str | None]]:
    """Return by whom and how the NVMe is had."""
    found = host.read_assignments([NVME]).get(NVME, ())
    return [(each.domain.name, each.kind, each.direct, each.live, each.via) for each in found]


def ask_uses(host: LibvirtHost) -> list[HostUse]:
    device = NodeDevice(
        NVME.node_device_name,
        NVME,
        "144d",
        "a80a",
        0x010802,
        driver="nvme",
        path=f"/sys/devices/pci0000:00/{NVME}",
    )
    return list(host.read_usage([NVME], [device]).uses)


@pytest.mark.parametrize("running", [True, False])
def test_a_domain_has_the_device_that_its_disk_lies_on(
    fake_host: FakeHost, host: LibvirtHost, *, running: bool
) -> None:
    start(fake_host, BLOCK_DISK.format("/dev/nvme0n1p2"), running=running)
    assert ask(host) == [("vm", "block_disk", False, running, "disk vda on /dev/nvme0n1p2")]
    assert ask_uses(host) == []


def test_a_disk_on_a_volume_is_where_libvirt_says(fake_host: FakeHost, host: LibvirtHost) -> None:
    fake_host.volumes["fast", "a"] = "/dev/nvme0n1"
    start(fake_host, VOLUME_DISK)
    assert ask(host) == [("vm", "block_disk", False, True, "disk vda on volume a of pool fast")]


@pytest.mark.parametrize(
    ("call", "code"),
    [("storagePoolLookupByName", 3), ("storagePoolLookupByName", 88), ("other", 0)],
)
def test_a_volume_that_libvirt_cannot_find_may_be_on_any_disk(
    fake_host: FakeHost, host: LibvirtHost, call: str, code: int
) -> None:
    fake_host.volumes["fast", "other"] = "/dev/nvme0n1"
    fake_host.refuse(call, code)
    start(fake_host, VOLUME_DISK)
    assert ask(host) == []
    what = "disk vda on volume a of pool fast of domain vm cannot be traced, and may lie on it"
    assert ask_uses(host) == [HostUse(NVME, what, known=False)]


@pytest.mark.parametrize("running", [True, False])
def test_a_path_that_leads_nowhere_may_be_on_any_disk_while_the_domain_runs(
    fake_host: FakeHost, host: LibvirtHost, *, running: bool
) -> None:
    start(fake_host, BLOCK_DISK.format("/dev/disk/by-id/unseen"), running=running)
    assert ask(host) == []
    assert [use.known for use in ask_uses(host)] == ([False] if running else [])


def test_a_disk_of_type_nvme_is_the_device_itself(fake_host: FakeHost, host: LibvirtHost) -> None:
    fake_host.add_pci(str(NVME), driver="nvme", class_code="010802", group=13)
    start(
        fake_host,
        "<disk type='nvme'><source type='pci' managed='yes' namespace='1'><address domain='0'"
        " bus='0x03' slot='0' function='0'/></source><target dev='vda'/></disk>",
    )
    assert ask(host) == [("vm", "nvme_disk", True, True, None)]


def test_sysfs_is_read_at_each_question(
    fake_host: FakeHost, host: LibvirtHost, sysfs: FakeSysfs
) -> None:
    """A volume moves from disk to disk without a word of libvirt's."""
    start(fake_host, BLOCK_DISK.format("/dev/mapper/vg-guest"))
    assert ask(host) == []
    sysfs.stack("dm-0", ["nvme0n1p2"], "vg-guest")
    assert [kind for _, kind, *_ in ask(host)] == ["block_disk"]
