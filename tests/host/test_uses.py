"""What is said of a host that can be seen, of one that cannot, and of which it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import HostUse, NodeDevice
from hypeman_libvirt.host.usage.host_usage import HostUsage
from hypeman_libvirt.host.usage.local_host import LocalHost, is_local
from hypeman_libvirt.host.usage.rtnetlink import Interface
from hypeman_libvirt.host.xml.node_tree import TreeNode
from tests.host.fake_sysfs import VIRTUAL, FakeSysfs

DISK = NodeDevice(
    "pci_0000_00_02_0",
    PciAddress(0, 0, 2, 0),
    "1af4",
    "1042",
    0x010000,
    driver="virtio-pci",
    path="/sys/devices/pci0000:00/0000:00:02.0",
)
NVME = NodeDevice(
    "pci_0000_03_00_0",
    PciAddress(0, 3, 0, 0),
    "1b36",
    "0010",
    0x010802,
    driver="nvme",
    path="/sys/devices/pci0000:00/0000:00:0a.0/0000:03:00.0",
)
VGA = NodeDevice(
    "pci_0000_09_00_0",
    PciAddress(0, 9, 0, 0),
    "1234",
    "1111",
    0x030000,
    driver="bochs-drm",
    path="/sys/devices/pci0000:00/0000:09:00.0",
)
BLOCK = TreeNode("block_vda", DISK.node_name, f"{DISK.path}/virtio1/block/vda", block="vda")
SHARED_BLOCK = TreeNode(
    "block_nvme0n1", "computer", f"{VIRTUAL}/nvme-subsystem/nvme-subsys0/nvme0n1", block="nvme0n1"
)


@pytest.fixture
def host(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path)


def ask_remote(device: NodeDevice, *tree: TreeNode) -> Sequence[HostUse]:
    return HostUsage(lambda: tree, None).list_uses([device])


def ask(host: FakeSysfs, device: NodeDevice, *tree: TreeNode) -> Sequence[HostUse]:
    return HostUsage(lambda: tree, LocalHost(host.root, host.read_interfaces)).list_uses([device])


def interface_node(link: str | None) -> TreeNode:
    return TreeNode("net_eth0", DISK.node_name, None, interface="eth0", link=link)


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("qemu:///system", True),
        ("qemu+unix:///system", True),
        ("qemu:///session", True),
        ("qemu+unix:///system?socket=/run/tunnel.sock", False),
        ("qemu+ssh:///system", False),
        ("qemu+tls://host.example/system", False),
        ("qemu+tcp://127.0.0.1:16509/system", False),
        ("qemu://host.example/system", False),
        ("test:///default", False),
        ("test:///srv/host.xml", False),
        ("", False),
    ],
)
def test_a_uri_without_a_host_is_this_host_s(uri: str, local: bool) -> None:
    assert is_local(uri) is local


def test_a_remote_disk_is_not_known_to_be_idle() -> None:
    what = "the block device vda lies on it, and its mounts cannot be seen from here"
    assert ask_remote(DISK, BLOCK) == [HostUse(DISK.address, what, known=False)]


@pytest.mark.parametrize("link", ["up", "unknown", None])
def test_a_remote_interface_whose_link_is_not_down_is_not_known_to_be_idle(
    link: str | None,
) -> None:
    what = "the link of eth0 is not down, and its addresses cannot be seen from here"
    expected = HostUse(DISK.address, what, known=False)
    assert ask_remote(DISK, interface_node(link)) == [expected]


def test_a_remote_interface_whose_link_is_down_is_idle() -> None:
    assert ask_remote(DISK, interface_node("down")) == []


def test_a_remote_device_with_nothing_on_it_is_idle() -> None:
    assert ask_remote(VGA, TreeNode("drm_card0", VGA.node_name), BLOCK) == []


def test_a_remote_nvme_controller_may_have_any_disk_of_a_subsystem() -> None:
    (use,) = ask_remote(NVME, SHARED_BLOCK)
    assert use.what.startswith("it is an NVMe controller, and nvme0n1 may lie on it")
    assert not use.known


def test_a_remote_nvme_controller_behind_a_vmd_counts_as_the_vmd_s() -> None:
    vmd = replace(NVME, class_code=0x010400, driver="vmd")
    below = TreeNode("pci_10000_e1_00_0", "computer", f"{vmd.path}/x", class_code=0x010802)
    assert [use.known for use in ask_remote(vmd, below, SHARED_BLOCK)] == [False]


@pytest.mark.parametrize("device", [VGA, replace(NVME, driver=None)])
def test_a_disk_of_a_subsystem_is_on_no_other_device_and_on_no_driverless_one(
    device: NodeDevice,
) -> None:
    assert ask_remote(device, SHARED_BLOCK) == []


@pytest.mark.parametrize("driver", ["vfio-pci", "mlx5_vfio_pci"])
def test_the_host_does_nothing_with_what_is_on_vfio(host: FakeSysfs, driver: str) -> None:
    def refuse() -> Sequence[TreeNode]:
        raise AssertionError("nobody asks")

    uses = HostUsage(refuse, LocalHost(host.root, host.read_interfaces))
    assert uses.list_uses([replace(DISK, driver=driver)]) == ()


def test_all_devices_of_a_group_are_answered_for(host: FakeSysfs) -> None:
    host.add_pci("0000:09:00.0", vendor_id="1234", device_id="1111")
    host.write(f"{VGA.path}/boot_vga", "1\n")
    view = LocalHost(host.root, host.read_interfaces)
    uses = HostUsage(list, view).list_uses([DISK, NVME, VGA])
    assert uses == [
        HostUse(DISK.address, "vda3 carries /"),
        HostUse(VGA.address, "it is the boot VGA"),
    ]


@pytest.mark.parametrize("driver", ["bochs-drm", None])
def test_the_boot_vga_is_critical_with_a_driver_and_without(
    host: FakeSysfs, driver: str | None
) -> None:
    host.add_pci("0000:09:00.0", vendor_id="1234", device_id="1111")
    host.write(f"{VGA.path}/boot_vga", "1\n")
    device = replace(VGA, driver=driver)
    assert ask(host, device) == [HostUse(VGA.address, "it is the boot VGA")]


KEYS = "10000 7 ff9f207ac14057ff febeffdfffefffff fffffffffffffffe"
"""Of a keyboard, in words of 64 bit."""


def add_input(host: FakeSysfs, controller: str, keys: str) -> None:
    directory = f"{controller}/usb1/1-2/1-2:1.0/0003:046D:C31C.0001/input/input5"
    host.write(f"{directory}/name", "Logitech USB Keyboard\n")
    host.write(f"{directory}/capabilities/key", f"{keys}\n")
    host.link("/sys/class/input/input5", directory)
    host.write("/sys/class/input/mice/dev", "13:63")


@pytest.mark.parametrize(
    ("keys", "uses"),
    [
        (KEYS, ["the keyboard Logitech USB Keyboard is on it"]),
        ("fffffffe", ["the keyboard Logitech USB Keyboard is on it"]),
        ("70000 0 0 0 0", []),
        ("0", []),
        ("", []),
    ],
)
def test_a_usb_controller_with_a_keyboard_is_in_use(
    host: FakeSysfs, keys: str, uses: list[str]
) -> None:
    path = host.add_pci("0000:00:14.0", vendor_id="8086", device_id="a36d")
    controller = replace(
        DISK,
        address=PciAddress(0, 0, 0x14, 0),
        vendor_id="8086",
        device_id="a36d",
        class_code=0x0C0330,
        path=path,
    )
    add_input(host, path, keys)
    assert [use.what for use in ask(host, controller)] == uses


def test_a_usb_controller_with_the_root_disk_is_in_use(host: FakeSysfs) -> None:
    path = host.add_pci("0000:00:14.0", vendor_id="8086", device_id="a36d")
    host.mount("/", host.add_disk("sdb", f"{path}/usb2/2-1/2-1:1.0/host6/target6:0:0/block"))
    controller = replace(DISK, vendor_id="8086", device_id="a36d", path=path)
    assert [use.what for use in ask(host, controller)] == ["sdb carries /"]


def test_the_only_vga_device_of_a_remote_host_may_be_its_console() -> None:
    vga = TreeNode(VGA.node_name, class_code=0x030000)
    gpu = TreeNode("pci_0000_82_00_0", class_code=0x030200)
    what = "it is the only VGA device of the host, and may be its console"
    assert ask_remote(VGA, vga, gpu) == [HostUse(VGA.address, what, known=False)]
    assert ask_remote(replace(VGA, class_code=0x030200), vga, gpu) == []
    assert ask_remote(VGA, vga, TreeNode("pci_0000_0a_00_0", class_code=0x030000)) == []


def test_another_graphics_card_is_idle(host: FakeSysfs) -> None:
    host.add_pci("0000:09:00.0", vendor_id="1234", device_id="1111")
    host.write(f"{VGA.path}/boot_vga", "0\n")
    assert ask(host, VGA) == []


def test_other_hardware_at_the_path_shows_that_libvirt_is_on_another_host(
    host: FakeSysfs,
) -> None:
    assert [use.known for use in ask(host, DISK, BLOCK)] == [True]
    assert [use.known for use in ask(host, replace(DISK, device_id="1001"), BLOCK)] == [False]


@pytest.mark.parametrize("path", [None, "/sys/devices/pci0000:00/0000:00:02.1"])
def test_a_device_that_is_not_in_this_host_s_sysfs_is_another_host_s(
    host: FakeSysfs, path: str | None
) -> None:
    assert [use.known for use in ask(host, replace(DISK, path=path), BLOCK)] == [False]


def test_an_idle_disk_is_free_where_the_mounts_are_seen(host: FakeSysfs) -> None:
    host.add_pci("0000:03:00.0", vendor_id="1b36", device_id="0010")
    idle = replace(NVME, path="/sys/devices/pci0000:00/0000:03:00.0")
    host.add_interface(Interface(1, "lo", addresses=("127.0.0.1",)))
    host.add_nvme(0, str(idle.path))
    assert ask(host, idle, SHARED_BLOCK) == []
    assert ask_remote(idle, SHARED_BLOCK) != []
