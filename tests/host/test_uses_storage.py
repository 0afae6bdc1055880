"""Stories of disks: what the host keeps on them, and what it does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import HostUse, NodeDevice
from hypeman_libvirt.host.usage.host_usage import HostUsage
from hypeman_libvirt.host.usage.local_host import LocalHost
from hypeman_libvirt.host.xml.node_tree import TreeNode
from tests.host.fake_sysfs import VIRTUAL, FakeSysfs

NVME = "0000:03:00.0"
SECOND_NVME = "0000:04:00.0"


@pytest.fixture
def host(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path)


def ask(
    host: FakeSysfs, path: str, driver: str | None = "nvme", tree: Sequence[TreeNode] = ()
) -> Sequence[HostUse]:
    device = NodeDevice(
        node_name="pci_asked",
        address=PciAddress.parse(path.rpartition("/")[2]),
        vendor_id="1af4",
        device_id=(host.root / path.lstrip("/") / "device").read_text().strip()[2:],
        driver=driver,
        path=path,
        class_code=0x010802,
    )
    return HostUsage(lambda: tree, LocalHost(host.root, host.read_interfaces)).list_uses([device])


def words(uses: Sequence[HostUse]) -> Sequence[str]:
    return [use.what for use in uses]


def test_the_disk_with_the_root_is_in_use(host: FakeSysfs) -> None:
    uses = ask(host, "/sys/devices/pci0000:00/0000:00:02.0", "virtio-pci")
    assert uses == [HostUse(PciAddress(0, 0, 2, 0), "vda3 carries /")]


def test_lvm_on_luks_on_nvme_carries_the_root_and_the_second_nvme_is_free(
    host: FakeSysfs,
) -> None:
    first = host.add_pci(NVME, device_id="a80a")
    second = host.add_pci(SECOND_NVME, device_id="a80a")
    part = host.add_partition(host.add_nvme(0, first), "nvme0n1p3")
    luks = host.stack("dm-0", [part], "luks-1")
    host.mount("/", host.stack("dm-1", [luks], "vg-root"))
    host.mount("/home", host.stack("dm-2", [luks], "vg-home"))
    host.swap_on("/dev/" + host.stack("dm-3", [luks], "vg-swap"))
    host.add_partition(host.add_nvme(1, second), "nvme1n1p1")
    assert words(ask(host, first)) == ["nvme0n1p3 carries /, swap, /home"]
    assert ask(host, second) == []


def test_both_controllers_of_one_nvme_subsystem_carry_its_disk(host: FakeSysfs) -> None:
    first = host.add_pci(NVME, device_id="a80a")
    second = host.add_pci(SECOND_NVME, device_id="a80a")
    host.mount("/srv", host.add_nvme(0, first))
    host.write(f"{second}/nvme/nvme1/state", "live")
    host.link(f"{VIRTUAL}/nvme-subsystem/nvme-subsys0/nvme1", f"{second}/nvme/nvme1")
    assert words(ask(host, first)) == words(ask(host, second)) == ["nvme0n1 carries /srv"]


def test_a_disk_behind_a_vmd_is_the_vmd_s_too(host: FakeSysfs) -> None:
    vmd = host.add_pci("0000:e0:05.5", device_id="28c0")
    nvme = host.add_pci("10000:e1:00.0", device_id="a80a", below=f"{vmd}/pci10000:e0")
    host.mount("/srv", host.add_nvme(0, nvme))
    assert words(ask(host, vmd, "vmd")) == words(ask(host, nvme)) == ["nvme0n1 carries /srv"]


@pytest.mark.parametrize("disk", ["sda", "sdb"])
def test_btrfs_raid1_is_on_both_disks_though_the_mount_names_one(
    host: FakeSysfs, disk: str
) -> None:
    paths = {}
    for name, address in (("sda", NVME), ("sdb", SECOND_NVME)):
        paths[name] = host.add_pci(address, device_id="2922")
        host.add_disk(name, f"{paths[name]}/ata1/host0/target0:0:0/0:0:0:0/block")
        host.link(f"/sys/fs/btrfs/5f1c/devices/{name}", f"/sys/class/block/{name}")
    host.mount("/data", "sda", kind="btrfs", number="0:45")
    assert words(ask(host, paths[disk], "ahci")) == [f"{disk} carries /data"]


def test_bcachefs_joins_its_disks_with_colons(host: FakeSysfs) -> None:
    paths = [host.add_pci(address, device_id="2922") for address in (NVME, SECOND_NVME)]
    for name, path in zip(("sda", "sdb"), paths, strict=True):
        host.add_disk(name, f"{path}/block")
    host.mount("/data", "/dev/sda:/dev/sdb", kind="bcachefs")
    assert [words(ask(host, path)) for path in paths] == [
        ["sda carries /data"],
        ["sdb carries /data"],
    ]


def test_bcachefs_that_another_namespace_mounted_names_its_disks_in_sysfs(
    host: FakeSysfs,
) -> None:
    path = host.add_pci(NVME, device_id="2922")
    host.add_disk("sda", f"{path}/block")
    host.link("/sys/fs/bcachefs/77e0/dev-0/block", f"{path}/block/sda")
    assert words(ask(host, path)) == ["sda carries a mounted bcachefs file system"]


def test_md_raid_and_its_partition_are_followed_to_each_member(host: FakeSysfs) -> None:
    paths = [host.add_pci(address, device_id="2922") for address in (NVME, SECOND_NVME)]
    for name, path in zip(("sda", "sdb"), paths, strict=True):
        host.add_partition(host.add_disk(name, f"{path}/block"), f"{name}1")
    array = host.stack("md0", ["sda1", "sdb1"])
    host.mount("/boot", host.add_partition(array, "md0p1"))
    assert [words(ask(host, path)) for path in paths] == [
        ["sda1 carries /boot"],
        ["sdb1 carries /boot"],
    ]


def test_swap_on_a_partition_is_a_use_and_a_swap_file_is_not_one_more(host: FakeSysfs) -> None:
    path = host.add_pci(NVME, device_id="2922")
    host.add_partition(host.add_disk("sda", f"{path}/block"), "sda2")
    host.swap_on("/swap\\040file", "file")
    assert ask(host, path) == []
    host.swap_on("/dev/sda2")
    assert words(ask(host, path)) == ["sda2 carries swap"]


@pytest.mark.parametrize(
    "path", ["/dev/dm-5", "/dev/mapper/vg-swap", "/dm-5", "/dev/dm-5\\040(deleted)"]
)
def test_swap_is_found_however_the_kernel_prints_its_path(host: FakeSysfs, path: str) -> None:
    pci = host.add_pci(NVME, device_id="2922")
    host.stack("dm-5", [host.add_disk("sda", f"{pci}/block")], "vg-swap")
    host.swap_on(path)
    assert words(ask(host, pci)) == ["sda carries swap"]


def test_a_file_system_that_another_mount_namespace_mounted_is_seen(host: FakeSysfs) -> None:
    path = host.add_pci(NVME, device_id="2922")
    host.add_disk("sda", f"{path}/block")
    host.write("/sys/fs/xfs/sda/stats/stats", "")
    assert words(ask(host, path)) == ["sda carries a mounted xfs file system"]


def test_a_loop_device_on_a_disk_is_followed_to_the_disk(host: FakeSysfs) -> None:
    path = host.add_pci(NVME, device_id="2922")
    host.add_disk("sda", f"{path}/block")
    host.write("/dev/sda", "")
    host.mount("/mnt", host.add_disk("loop0", f"{VIRTUAL}/block"))
    host.write(f"{VIRTUAL}/block/loop0/loop/backing_file", "/dev/sda\n")
    assert words(ask(host, path)) == ["sda carries /mnt"]


def test_a_volume_that_is_active_but_not_mounted_may_be_a_guest_s(host: FakeSysfs) -> None:
    path = host.add_pci(NVME, device_id="2922")
    host.stack("dm-7", [host.add_disk("sda", f"{path}/block")], "vg-guest")
    (use,) = ask(host, path)
    assert use.what == "sda is part of dm-7, which may be in use"
    assert not use.known


def test_a_device_mapper_name_and_a_link_in_dev_lead_to_the_disk(host: FakeSysfs) -> None:
    path = host.add_pci(NVME, device_id="2922")
    host.stack("dm-7", [host.add_disk("sda", f"{path}/block")], "vg-data")
    host.add_disk("sdb", f"{path}/block")
    host.write("/dev/sdb", "")
    host.link("/dev/disk/by-label/other", "/dev/sdb")
    host.mount("/data", "/dev/mapper/vg-data", kind="btrfs")
    host.mount("/other", "/dev/disk/by-label/other", kind="btrfs")
    assert words(ask(host, path)) == ["sda carries /data", "sdb carries /other"]


@pytest.mark.parametrize("trace", ["mount", "pool", "volume", "swap"])
def test_zfs_says_not_where_it_lies_so_that_no_partition_is_known_to_be_idle(
    host: FakeSysfs, trace: str
) -> None:
    path = host.add_pci(NVME, device_id="2922")
    host.add_partition(host.add_disk("sda", f"{path}/block"), "sda1")
    host.add_disk("sdb", f"{path}/block")
    assert ask(host, path) == []
    match trace:
        case "mount":
            host.mount("/tank", "tank", kind="zfs")
        case "pool":
            host.write("/proc/spl/kstat/zfs/tank/state", "ONLINE")
        case "volume":
            host.mount("/vol", host.add_disk("zd0", f"{VIRTUAL}/block"))
        case _:
            host.swap_on("/dev/gone")
    (use,) = ask(host, path)
    assert use.what.startswith("sda1 may carry a part of ")
    assert not use.known


def test_a_pool_of_zfs_is_on_the_disks_that_udev_found_its_label_on(host: FakeSysfs) -> None:
    path, other = (host.add_pci(each, device_id="2922") for each in (NVME, SECOND_NVME))
    for disk, directory in (("sda", path), ("sdb", other)):
        host.add_partition(host.add_disk(disk, f"{directory}/block"), f"{disk}1")
    host.label_zfs("sda1", "tank")
    host.label_zfs("sdb1", "exported")
    host.write("/proc/spl/kstat/zfs/tank/state", "ONLINE")
    host.mount("/tank", "tank/home", kind="zfs")
    assert words(ask(host, path)) == ["sda1 carries /tank, the ZFS pool tank"]
    assert ask(host, other) == []


def test_the_cache_of_a_pool_does_not_name_its_pool(host: FakeSysfs) -> None:
    path = host.add_pci(NVME, device_id="2922")
    host.label_zfs(host.add_disk("sda", f"{path}/block"), None)
    assert ask(host, path) == []
    host.label_zfs("vda3", "tank")
    host.write("/proc/spl/kstat/zfs/tank/state", "ONLINE")
    (use,) = ask(host, path)
    assert use.what == "sda may be the cache or a spare of an imported ZFS pool"
    assert not use.known


def test_a_root_on_zfs_is_the_host_s_when_its_pool_is_on_a_disk(host: FakeSysfs) -> None:
    host.label_zfs("vda3", "rpool")
    host.mount("/", "rpool/ROOT/debian", kind="zfs")
    path = host.add_pci(NVME, device_id="2922")
    host.add_partition(host.add_disk("sda", f"{path}/block"), "sda1")
    assert ask(host, path) == []
    (use,) = ask(host, "/sys/devices/pci0000:00/0000:00:02.0", "virtio-pci")
    assert use == HostUse(PciAddress(0, 0, 2, 0), "vda3 carries /")


def test_a_root_on_an_overlay_is_the_host_s_when_its_layers_are_mounted_from_a_disk(
    host: FakeSysfs,
) -> None:
    path = host.add_pci(NVME, device_id="2922")
    host.mount("/media/root-ro", host.add_disk("sda", f"{path}/block"))
    host.mount("/media/root-rw", "tmpfs", kind="tmpfs")
    layers = "rw,lowerdir=/media/root-ro,upperdir=/media/root-rw/up,workdir=/media/root-rw/work"
    host.mount("/", "overlay", kind="overlay", options=layers)
    assert words(ask(host, path)) == ["sda carries /media/root-ro"]


def test_a_container_that_shares_the_process_namespace_sees_no_mounts_of_the_host(
    host: FakeSysfs,
) -> None:
    """Its overlay's layers are directories of the host's, which it has no mounts of."""
    path = host.add_pci(NVME, device_id="2922")
    host.add_disk("sda", f"{path}/block")
    host.write("/proc/self/mountinfo", "")
    layers = "rw,lowerdir=/var/lib/docker/overlay2/a,upperdir=/var/lib/docker/overlay2/b"
    host.mount("/", "overlay", kind="overlay", options=layers)
    tree = [TreeNode("block_sda", "pci_asked", f"{path}/block/sda", block="sda")]
    assert [use.known for use in ask(host, path, "ahci", tree)] == [False]


@pytest.mark.parametrize("option", ["logdev", "rtdev"])
def test_the_external_log_of_xfs_is_a_part_of_it(host: FakeSysfs, option: str) -> None:
    path = host.add_pci(NVME, device_id="a80a")
    host.add_partition(host.add_nvme(0, path), "nvme0n1p1")
    host.mount("/srv", "vda3", kind="xfs", options=f"rw,attr2,{option}=/dev/nvme0n1p1,noquota")
    assert words(ask(host, path)) == ["nvme0n1p1 carries a part of /srv"]


def test_the_external_journal_of_ext4_is_called_after_its_device(host: FakeSysfs) -> None:
    path = host.add_pci(NVME, device_id="a80a")
    host.add_partition(host.add_nvme(0, path), "nvme0n1p1")
    host.write("/proc/fs/jbd2/vda3-8/info", "")
    host.write("/proc/fs/jbd2/nvme0n1p10-8/info", "")
    assert ask(host, path) == []
    host.write("/proc/fs/jbd2/nvme0n1p1/info", "")
    assert words(ask(host, path)) == ["nvme0n1p1 carries the journal of a file system"]


def test_a_file_system_over_fibre_channel_is_the_use_of_its_port_alone(host: FakeSysfs) -> None:
    first, second = (host.add_pci(each, device_id="2261") for each in (NVME, SECOND_NVME))
    host.add_hba(7, first, "10000090fae0ec88")
    host.add_hba(8, second, "10000090fae0ec89")
    host.mount("/srv", host.add_nvme_over_fc(1, "10000090fae0ec88"))
    assert words(ask(host, first, "lpfc")) == ["nvme1n1 carries /srv"]
    assert ask(host, second, "lpfc") == []


def test_a_port_that_is_not_named_may_be_any(host: FakeSysfs) -> None:
    first, second = (host.add_pci(each, device_id="2261") for each in (NVME, SECOND_NVME))
    host.add_hba(7, first, "10000090fae0ec88")
    host.add_hba(8, second, "10000090fae0ec89")
    host.mount("/srv", host.add_nvme_over_fc(1, "10000090fae0ec80"))
    for path in (first, second):
        assert words(ask(host, path, "lpfc")) == ["nvme1n1 carries /srv"]


def test_a_disk_over_fabrics_without_multipath_lies_below_its_controller(host: FakeSysfs) -> None:
    path = host.add_pci(NVME, device_id="2261")
    host.add_hba(7, path, "10000090fae0ec88")
    host.add_nvme_over_fc(1, "10000090fae0ec88")
    host.mount("/srv", host.add_disk("nvme1n2", f"{VIRTUAL}/nvme-fabrics/ctl/nvme1"))
    assert words(ask(host, path, "lpfc")) == ["nvme1n2 carries /srv"]


def test_a_session_of_an_offloading_iscsi_adapter_is_below_its_function(host: FakeSysfs) -> None:
    """bnx2i, qedi, qla4xxx and be2iscsi add their SCSI host below the PCI function."""
    path = host.add_pci(NVME, device_id="168e")
    session = f"{path}/host9/session1/target9:0:0/9:0:0:0/block"
    host.mount("/srv", host.add_disk("sdk", session))
    assert words(ask(host, path, "bnx2x")) == ["sdk carries /srv"]


def test_the_backing_device_of_compressed_swap_is_a_use(host: FakeSysfs) -> None:
    path = host.add_pci(NVME, device_id="a80a")
    host.add_nvme(0, path)
    host.write("/dev/nvme0n1", "")
    host.swap_on("/dev/" + host.add_disk("zram0", f"{VIRTUAL}/block"))
    host.write(f"{VIRTUAL}/block/zram0/backing_dev", "none\n")
    assert ask(host, path) == []
    host.write(f"{VIRTUAL}/block/zram0/backing_dev", "/dev/nvme0n1\n")
    assert words(ask(host, path)) == ["nvme0n1 carries swap"]


def test_a_shared_directory_is_a_use_of_the_device_that_brings_it(host: FakeSysfs) -> None:
    path = host.add_pci(NVME, device_id="1049")
    host.add_share("9pnet_virtio", path, 3, "images")
    host.add_share("9pnet_virtio", host.add_pci(SECOND_NVME, device_id="1049"), 4, "idle")
    host.mount("/tcp", "images", kind="9p", options="rw,trans=tcp")
    assert ask(host, path, "virtio-pci") == []
    host.mount("/images", "images", kind="9p", options="rw,trans=virtio")
    assert words(ask(host, path, "virtio-pci")) == ["/images is mounted from it"]
    assert ask(host, f"/sys/devices/pci0000:00/{SECOND_NVME}", "virtio-pci") == []


def test_virtiofs_shows_its_tag_from_linux_6_9_on(host: FakeSysfs) -> None:
    paths = [host.add_pci(each, device_id="105a") for each in (NVME, SECOND_NVME)]
    devices = [host.add_share("virtiofs", path, number) for number, path in enumerate(paths)]
    host.mount("/", "images", kind="virtiofs")
    for path in paths:
        (use,) = ask(host, path, "virtio-pci")
        assert (use.what, use.known) == ("/ is perhaps mounted from it", False)
    for number, tag in enumerate(("images", "idle")):
        host.write(f"/sys/fs/virtiofs/{number}/tag", f"{tag}\n")
        host.link(f"/sys/fs/virtiofs/{number}/device", devices[number])
    assert ask(host, paths[0]) == [HostUse(PciAddress.parse(NVME), "/ is mounted from it")]
    assert ask(host, paths[1]) == []


@pytest.mark.parametrize("harmless", ["loop", "zram", "overlay", "nfs"])
def test_what_lies_in_memory_files_or_the_network_leaves_idle_disks_free(
    host: FakeSysfs, harmless: str
) -> None:
    path = host.add_pci(NVME, device_id="2922")
    host.add_partition(host.add_disk("sda", f"{path}/block"), "sda1")
    match harmless:
        case "loop":
            host.mount("/snap", host.add_disk("loop0", f"{VIRTUAL}/block"))
            host.write(f"{VIRTUAL}/block/loop0/loop/backing_file", "/var/a.snap\n")
        case "zram":
            host.swap_on("/dev/" + host.add_disk("zram0", f"{VIRTUAL}/block"))
        case "overlay":
            host.mount("/var/lib/docker/overlay2/a/merged", "overlay", kind="overlay")
        case _:
            host.mount("/mnt", "nas:/export", kind="nfs4")
    assert ask(host, path) == []


def test_of_many_mounts_the_root_and_a_few_are_named(host: FakeSysfs) -> None:
    for point in ("/var/lib/docker", "/home", "/opt/with\\040space", "/srv"):
        host.mount(point, "vda3")
    uses = ask(host, "/sys/devices/pci0000:00/0000:00:02.0", "virtio-pci")
    assert words(uses) == ["vda3 carries /, /srv, /home and 2 more"]


def test_a_mount_point_with_a_space_is_named_as_people_write_it(host: FakeSysfs) -> None:
    path = host.add_pci(NVME, device_id="2922")
    host.mount("/my\\040disk", host.add_disk("sda", f"{path}/block"))
    assert words(ask(host, path)) == ["sda carries /my disk"]


def hide_in_container(host: FakeSysfs) -> None:
    host.vanish("/proc/self/ns/pid")
    host.link("/proc/self/ns/pid", "pid:[4026532567]")


def lay_root_on_overlay(host: FakeSysfs) -> None:
    host.mount("/", "overlay", kind="overlay")


def lay_root_on_zfs(host: FakeSysfs) -> None:
    host.mount("/", "rpool/ROOT", kind="zfs")


def hide_mounts(host: FakeSysfs) -> None:
    host.vanish("/proc/self/mountinfo")


def hide_swaps(host: FakeSysfs) -> None:
    host.vanish("/proc/swaps")


def hide_filesystems(host: FakeSysfs) -> None:
    host.vanish("/proc/filesystems")


@pytest.mark.parametrize(
    "hide",
    [
        hide_in_container,
        lay_root_on_overlay,
        lay_root_on_zfs,
        hide_mounts,
        hide_swaps,
        hide_filesystems,
    ],
)
def test_mounts_that_may_not_be_the_host_s_are_not_believed(host: FakeSysfs, hide: object) -> None:
    assert callable(hide)
    path = host.add_pci(NVME, device_id="2922")
    host.add_disk("sda", f"{path}/block")
    tree = [TreeNode("block_sda", "pci_asked", f"{path}/block/sda", block="sda")]
    assert ask(host, path, "ahci", tree) == []
    hide(host)
    (use,) = ask(host, path, "ahci", tree)
    assert use.what == ("the block device sda lies on it, and its mounts cannot be seen from here")
    assert not use.known


@pytest.mark.parametrize("gone", ["dev", "holders", "link", "controller"])
def test_what_vanishes_while_it_is_read_stops_nobody(host: FakeSysfs, gone: str) -> None:
    nvme = host.add_pci(NVME, device_id="a80a")
    disk = host.add_nvme(0, nvme)
    subsystem = f"{VIRTUAL}/nvme-subsystem/nvme-subsys0"
    match gone:
        case "dev":
            host.vanish(f"{subsystem}/{disk}/dev")
        case "holders":
            (host.root / f"{subsystem}/{disk}/holders".lstrip("/")).rmdir()
        case "link":
            host.link("/sys/class/block/sdz", "/sys/devices/gone/sdz")
        case _:
            host.vanish(f"{subsystem}/nvme0")
    assert ask(host, nvme) == []
    root = ask(host, "/sys/devices/pci0000:00/0000:00:02.0", "virtio-pci")
    assert words(root) == ["vda3 carries /"]
