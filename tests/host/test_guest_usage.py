"""Stories of guests: which PCI devices they live on, seen on the host itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.host.usage.guest_usage import GuestUsage
from hypeman_libvirt.host.usage.local_host import LocalHost
from hypeman_libvirt.host.xml.guest_devices import (
    GuestDevice,
    InterfaceSource,
    MdevSource,
    PathSource,
    PciSource,
    ScsiSource,
    Source,
    UsbSource,
    VhostScsiSource,
    VolumeSource,
)
from hypeman_libvirt.host.xml.node_tree import TreeNode
from tests.host.fake_sysfs import VIRTUAL, FakeSysfs

FIRST = "0000:03:00.0"
SECOND = "0000:04:00.0"
ROOT = "0000:00:02.0"
UUID = "c2177883-f1bb-47f0-914d-32a22e3a8804"


@pytest.fixture
def host(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path)


@pytest.fixture
def first(host: FakeSysfs) -> str:
    """An NVMe behind a root port."""
    return host.add_pci(FIRST, device_id="a80a", below="/sys/devices/pci0000:00/0000:00:0a.0")


def trace(host: FakeSysfs, source: Source, **volumes: str) -> list[str] | None:
    """Return the addresses that something of a guest's lies on, in order; None when unknown."""

    def refuse() -> list[TreeNode]:
        raise AssertionError("the host itself is asked")

    usage = GuestUsage(refuse, lambda _, volume: volumes.get(volume), LocalHost(host.root))
    found = usage.new_trace()(GuestDevice("block_disk", "disk vda", source))
    return None if found is None else [str(each) for each in sorted(found)]


def trace_path(host: FakeSysfs, path: str) -> list[str] | None:
    return trace(host, PathSource(path))


def test_a_disk_and_its_partition_lie_on_their_controller_not_on_the_port_above(
    host: FakeSysfs, first: str
) -> None:
    host.add_partition(host.add_nvme(0, first), "nvme0n1p2")
    assert trace_path(host, "/dev/nvme0n1") == [FIRST]
    assert trace_path(host, "/dev/nvme0n1p2") == [FIRST]


def test_a_disk_behind_a_vmd_lies_on_both(host: FakeSysfs) -> None:
    vmd = host.add_pci("0000:e0:05.5", device_id="28c0")
    host.add_nvme(0, host.add_pci("10000:e1:00.0", device_id="a80a", below=f"{vmd}/pci10000:e0"))
    assert trace_path(host, "/dev/nvme0n1") == ["0000:e0:05.5", "10000:e1:00.0"]


def test_lvm_luks_and_raid_lie_on_every_disk_below(host: FakeSysfs, first: str) -> None:
    second = host.add_pci(SECOND, device_id="a80a")
    array = host.stack("md0", [host.add_nvme(0, first), host.add_nvme(1, second)])
    luks = host.stack("dm-0", [array], "luks-1")
    host.stack("dm-1", [luks], "vg-guest")
    assert trace_path(host, "/dev/mapper/vg-guest") == [FIRST, SECOND]


def test_both_paths_of_a_multipath_disk_count(host: FakeSysfs, first: str) -> None:
    second = host.add_pci(SECOND, device_id="2031")
    paths = [host.add_disk("sda", f"{first}/block"), host.add_disk("sdb", f"{second}/block")]
    host.stack("dm-4", paths, "mpatha")
    assert trace_path(host, "/dev/mapper/mpatha") == [FIRST, SECOND]


def test_bcache_lies_on_the_disk_and_on_its_cache(host: FakeSysfs, first: str) -> None:
    second = host.add_pci(SECOND, device_id="2922")
    host.stack("bcache0", [host.add_nvme(0, first), host.add_disk("sda", f"{second}/block")])
    assert trace_path(host, "/dev/bcache0") == [FIRST, SECOND]


@pytest.mark.parametrize("link", ["disk/by-id/nvme-QEMU_1", "vg/guest"])
def test_links_of_udev_are_followed(host: FakeSysfs, first: str, link: str) -> None:
    host.add_nvme(0, first)
    host.write("/dev/nvme0n1", "")
    host.link(f"/dev/{link}", "/dev/nvme0n1")
    assert trace_path(host, f"/dev/{link}") == [FIRST]


def test_links_of_udev_are_known_from_its_records_too(host: FakeSysfs, first: str) -> None:
    host.add_nvme(0, first)
    host.record("nvme0n1", "S:disk/by-id/nvme-QEMU_1")
    assert trace_path(host, "/dev/disk/by-id/nvme-QEMU_1") == [FIRST]


def test_a_name_with_a_slash_is_the_kernel_s_with_an_exclamation_mark(
    host: FakeSysfs, first: str
) -> None:
    host.add_disk("cciss!c0d0", f"{first}/block")
    assert trace_path(host, "/dev/cciss/c0d0") == [FIRST]


def test_a_loop_device_lies_on_what_it_was_set_up_on(host: FakeSysfs, first: str) -> None:
    host.mount("/srv", host.add_nvme(0, first))
    assert trace_path(host, f"/dev/{host.set_up_loop('loop0', '/dev/nvme0n1')}") == [FIRST]
    assert trace_path(host, f"/dev/{host.set_up_loop('loop1', '/srv/a.img')}") == [FIRST]
    assert trace_path(host, f"/dev/{host.set_up_loop('loop2', '/a.img (deleted)')}") == [ROOT]


def test_a_file_lies_on_the_deepest_mount_and_there_on_the_last(
    host: FakeSysfs, first: str
) -> None:
    host.mount("/srv", "nas:/export", kind="nfs4")
    host.mount("/srv", host.add_partition(host.add_nvme(0, first), "nvme0n1p1"))
    host.mount("/srv/memory", "tmpfs", kind="tmpfs")
    assert trace_path(host, "/srv/images/a.qcow2") == [FIRST]
    assert trace_path(host, "/srv/memory/a.qcow2") == []
    assert trace_path(host, "/srvx/a.qcow2") == [ROOT]


def test_a_link_to_a_file_lies_where_the_file_does(host: FakeSysfs, first: str) -> None:
    host.mount("/fast", host.add_nvme(0, first))
    host.write("/fast/a.img", "")
    host.link("/images/a.img", "/fast/a.img")
    assert trace_path(host, "/images/a.img") == [FIRST]


def test_a_file_on_btrfs_lies_on_every_disk_of_it(host: FakeSysfs, first: str) -> None:
    second = host.add_pci(SECOND, device_id="2922")
    for name, path in (("sda", first), ("sdb", second)):
        host.add_disk(name, f"{path}/block")
        host.link(f"/sys/fs/btrfs/5f1c/devices/{name}", f"/sys/class/block/{name}")
    host.mount("/data", "sda", kind="btrfs", number="0:45")
    assert trace_path(host, "/data/a.img") == [FIRST, SECOND]


def test_a_file_on_an_overlay_lies_on_what_the_overlay_is_made_of(
    host: FakeSysfs, first: str
) -> None:
    host.mount("/upper", host.add_nvme(0, first))
    layers = "rw,lowerdir=/usr/share/a:/b,upperdir=/upper/data,workdir=/upper/work"
    host.mount("/merged", "overlay", kind="overlay", options=layers)
    assert trace_path(host, "/merged/a.img") == [ROOT, FIRST]


def test_a_file_on_a_shared_directory_lies_on_the_device_of_the_share(host: FakeSysfs) -> None:
    pci = host.add_pci(FIRST, device_id="1049")
    host.add_share("9pnet_virtio", pci, 3, "images")
    host.mount("/images", "images", kind="9p", options="rw,trans=virtio")
    assert trace_path(host, "/images/a.img") == [FIRST]


def test_a_volume_of_zfs_lies_on_the_members_of_its_pool(host: FakeSysfs, first: str) -> None:
    host.label_zfs(host.add_partition(host.add_nvme(0, first), "nvme0n1p1"), "tank")
    host.record(host.add_disk("zd0", f"{VIRTUAL}/block"), "S:zvol/tank/guest", "S:tank/guest")
    assert trace_path(host, "/dev/zvol/tank/guest") == [FIRST]


@pytest.mark.parametrize(
    "path", ["/dev/zd0", "/dev/disk/by-id/gone", "/dev/sdz", "/mnt/union/a.img"]
)
def test_what_cannot_be_traced_is_unknown(host: FakeSysfs, path: str) -> None:
    host.add_disk("zd0", f"{VIRTUAL}/block")
    host.mount("/mnt/union", "a:b", kind="fuse.mergerfs")
    assert trace_path(host, path) is None


def test_a_file_is_unknown_where_the_mounts_are_not_the_host_s(host: FakeSysfs) -> None:
    assert trace_path(host, "/a.img") == [ROOT]
    host.vanish("/proc/self/ns/pid")
    assert trace_path(host, "/a.img") is None


@pytest.mark.parametrize("name", ["nbd0", "zram0", "ram0"])
def test_a_disk_in_memory_or_on_the_network_lies_on_no_pci(host: FakeSysfs, name: str) -> None:
    host.add_disk(name, f"{VIRTUAL}/block")
    assert trace_path(host, f"/dev/{name}") == []


def test_a_volume_of_a_pool_lies_where_libvirt_says(host: FakeSysfs, first: str) -> None:
    host.add_nvme(0, first)
    assert trace(host, VolumeSource("pool", "vol"), vol="/dev/nvme0n1") == [FIRST]
    assert trace(host, VolumeSource("pool", "other"), vol="/dev/nvme0n1") is None


def test_a_disk_of_type_nvme_is_the_device_itself(host: FakeSysfs) -> None:
    assert trace(host, PciSource(PciAddress(0, 3, 0, 0))) == [FIRST]


def test_a_mediated_device_lies_on_its_parent(host: FakeSysfs) -> None:
    gpu = host.add_pci(FIRST, device_id="1eb8")
    host.write(f"{gpu}/{UUID}/mdev_type/name", "GRID T4-1B")
    host.link(f"/sys/bus/mdev/devices/{UUID}", f"{gpu}/{UUID}")
    assert trace(host, MdevSource(UUID)) == [FIRST]
    assert trace(host, MdevSource(UUID.replace("c", "d"))) is None


def test_a_scsi_adapter_lies_on_its_card(host: FakeSysfs) -> None:
    hba = host.add_pci(FIRST, device_id="0097")
    host.write(f"{hba}/host2/scsi_host/host2/state", "running")
    host.link("/sys/class/scsi_host/host2", f"{hba}/host2/scsi_host/host2")
    assert trace(host, ScsiSource(2)) == [FIRST]
    assert trace(host, ScsiSource(3)) is None


def test_a_vhost_target_lies_on_the_disk_that_it_exports(host: FakeSysfs, first: str) -> None:
    host.add_nvme(0, first)
    target = "/sys/kernel/config/target"
    host.write(f"{target}/core/iblock_0/disk/udev_path", "/dev/nvme0n1\n")
    host.link(f"{target}/vhost/naa.5/tpgt_1/lun/lun_0/1a2b", f"{target}/core/iblock_0/disk")
    host.write(f"{target}/vhost/naa.5/tpgt_1/lun/lun_0/alua_tg_pt_gp", "")
    assert trace(host, VhostScsiSource("naa.5")) == [FIRST]
    assert trace(host, VhostScsiSource("naa.6")) is None


def add_usb(host: FakeSysfs, pci: str, name: str, bus: int, device: int) -> None:
    directory = f"{pci}/usb{bus}/{name}"
    facts = {"busnum": bus, "devnum": device, "idVendor": "046d", "idProduct": "c31c"}
    for key, value in facts.items():
        host.write(f"{directory}/{key}", f"{value}\n")
    host.link(f"/sys/bus/usb/devices/{name}", directory)


def test_a_usb_device_lies_on_its_controller_by_place_or_by_what_it_is(host: FakeSysfs) -> None:
    for address, name, bus in ((FIRST, "1-2", 1), (SECOND, "2-2", 2)):
        add_usb(host, host.add_pci(address, device_id="1e31"), name, bus, 4)
    assert trace(host, UsbSource(2, 4, None, None)) == [SECOND]
    assert trace(host, UsbSource(None, None, "046d", "c31c")) == [FIRST, SECOND]
    assert trace(host, UsbSource(2, 5, "046d", "c31c")) is None


def test_a_vdpa_device_lies_on_its_parent(host: FakeSysfs) -> None:
    nic = host.add_pci(FIRST, device_id="101e")
    host.write(f"{nic}/vdpa0/vhost-vdpa-0/dev", "507:0")
    host.link("/sys/bus/vdpa/devices/vdpa0", f"{nic}/vdpa0")
    assert trace_path(host, "/dev/vhost-vdpa-0") == [FIRST]
    assert trace_path(host, "/dev/vhost-vdpa-1") is None


def test_a_share_of_a_bond_lies_on_every_port(host: FakeSysfs) -> None:
    for address, name in ((FIRST, "eth0"), (SECOND, "eth1")):
        directory = f"{host.add_pci(address, device_id='10d3')}/net/{name}"
        host.write(f"{directory}/ifindex", "2")
        host.link(f"/sys/class/net/{name}", directory)
        host.link(f"{VIRTUAL}/net/bond0/lower_{name}", directory)
    host.link("/sys/class/net/bond0", f"{VIRTUAL}/net/bond0")
    host.write(f"{VIRTUAL}/net/dummy0/ifindex", "9")
    host.link("/sys/class/net/dummy0", f"{VIRTUAL}/net/dummy0")
    assert trace(host, InterfaceSource("eth1")) == [SECOND]
    assert trace(host, InterfaceSource("bond0")) == [FIRST, SECOND]
    assert trace(host, InterfaceSource("dummy0")) == []
    assert trace(host, InterfaceSource("eth9")) is None


@pytest.mark.parametrize(("kind", "path"), [("drm", "/dev/dri/renderD128"), ("tty", "/dev/ttyS4")])
def test_a_character_device_lies_on_its_card(host: FakeSysfs, kind: str, path: str) -> None:
    name = path.rpartition("/")[2]
    directory = f"{host.add_pci(FIRST, device_id='2204')}/{kind}/{name}"
    host.write(f"{directory}/dev", "226:128")
    host.link(f"/sys/class/{kind}/{name}", directory)
    assert trace_path(host, path) == [FIRST]


def test_a_disk_over_fibre_channel_lies_on_the_port_that_it_is_reached_by(host: FakeSysfs) -> None:
    host.add_hba(7, host.add_pci(FIRST, device_id="2261"), "10000090fae0ec88")
    host.add_hba(8, host.add_pci(SECOND, device_id="2261"), "10000090fae0ec89")
    host.add_nvme_over_fc(1, "10000090fae0ec89")
    assert trace_path(host, "/dev/nvme1n1") == [SECOND]
