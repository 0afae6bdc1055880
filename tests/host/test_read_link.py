"""Whether a physical function's network interface is up: the kernel says so, else libvirt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import NetworkLink, NodeDevice
from hypeman_libvirt.host.usage.host_usage import HostUsage
from hypeman_libvirt.host.usage.local_host import LocalHost
from hypeman_libvirt.host.xml.node_tree import TreeNode
from tests.host.fake_sysfs import FakeSysfs

PATH = "/sys/devices/pci0000:00/0000:3b:00.0"
NIC = NodeDevice(
    node_name="pci_0000_3b_00_0",
    address=PciAddress.parse("0000:3b:00.0"),
    vendor_id="15b3",
    device_id="101d",
    path=PATH,
)


@dataclass
class Listed:
    """libvirt's network interfaces; counts how often it was asked for them."""

    link: str = "up"
    asked: int = 0

    def __call__(self) -> list[TreeNode]:
        self.asked += 1
        return [
            TreeNode(
                "net_ens1", NIC.node_name, f"{PATH}/net/ens1", interface="ens1", link=self.link
            ),
            TreeNode("net_ens9", "pci_0000_99_00_0", interface="ens9", link="up"),
        ]


@pytest.mark.parametrize(("flags", "up"), [("0x1003", True), ("0x1002", False)])
def test_on_the_host_the_kernel_says_whether_it_is_switched_on(
    tmp_path: Path, flags: str, up: bool
) -> None:
    sysfs, listed = FakeSysfs(tmp_path), Listed("down")
    sysfs.add_pci("0000:3b:00.0", device_id="101d")
    sysfs.write(f"{PATH}/net/ens1/flags", f"{flags}\n")
    usage = HostUsage(list, LocalHost(tmp_path, sysfs.read_interfaces))
    assert usage.read_link(NIC, listed) == NetworkLink("ens1", up)
    assert listed.asked == 0


def test_of_several_one_that_is_up_is_enough(tmp_path: Path) -> None:
    sysfs = FakeSysfs(tmp_path)
    sysfs.write(f"{PATH}/net/ens1/flags", "0x1002\n")
    sysfs.write(f"{PATH}/net/ens1v0/flags", "0x1003\n")
    usage = HostUsage(list, LocalHost(tmp_path, sysfs.read_interfaces))
    assert usage.read_link(NIC, Listed()) == NetworkLink("ens1", up=True)


@pytest.mark.parametrize(("link", "up"), [("up", True), ("down", False), ("unknown", True)])
def test_from_elsewhere_libvirt_says_it(link: str, up: bool) -> None:
    assert HostUsage(list, None).read_link(NIC, Listed(link)) == NetworkLink("ens1", up)


def test_a_function_without_an_interface_has_no_link() -> None:
    assert HostUsage(list, None).read_link(NIC, list) is None
