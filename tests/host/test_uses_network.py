"""Stories of network interfaces: what the host does with them, and what it does not."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import HostUse, NodeDevice
from hypeman_libvirt.host.usage.host_usage import HostUsage
from hypeman_libvirt.host.usage.local_host import LocalHost
from hypeman_libvirt.host.usage.rtnetlink import Interface
from hypeman_libvirt.host.xml.node_tree import TreeNode
from tests.host.fake_sysfs import FakeSysfs

NIC = "/sys/devices/pci0000:00/0000:01:00.0"
ADDRESS = PciAddress(0, 1, 0, 0)
NODE = NodeDevice("pci_0000_01_00_0", ADDRESS, "8086", "10d3", 0x020000, driver="e1000e", path=NIC)
CHILD = TreeNode("net_eth0", NODE.node_name, f"{NIC}/net/eth0", interface="eth0", link="up")


@pytest.fixture
def host(tmp_path: Path) -> FakeSysfs:
    host = FakeSysfs(tmp_path)
    host.add_pci("0000:01:00.0", vendor_id="8086", device_id="10d3")
    return host


def ask(host: FakeSysfs, tree: Sequence[TreeNode] = (CHILD,)) -> Sequence[HostUse]:
    return HostUsage(lambda: tree, LocalHost(host.root, host.read_interfaces)).list_uses([NODE])


def test_a_link_that_is_up_without_anything_on_it_is_idle(host: FakeSysfs) -> None:
    host.add_interface(Interface(2, "eth0"), NIC)
    assert ask(host) == []


def test_an_address_and_the_default_route_are_uses(host: FakeSysfs) -> None:
    host.add_interface(
        Interface(2, "eth0", addresses=("192.0.2.2", "2001:db8::2"), has_default_route=True), NIC
    )
    what = "eth0 has the address 192.0.2.2, 2001:db8::2 and has the default route"
    assert ask(host) == [HostUse(ADDRESS, what)]


@pytest.mark.parametrize("line", ["eth0", "eth0.7"])
def test_a_pppoe_line_has_its_addresses_on_an_interface_of_its_own(
    host: FakeSysfs, line: str
) -> None:
    host.add_interface(Interface(2, "eth0"), NIC)
    host.add_interface(Interface(3, "eth0.7", kind="vlan", lower=2))
    host.add_interface(Interface(4, "ppp0", addresses=("192.0.2.9",), has_default_route=True))
    host.write("/proc/net/pppoe", "Id       Address              Device\n")
    assert ask(host) == []
    row = f"00000001 00:25:90:aa:bb:cc {line:>8}\n"
    host.write("/proc/net/pppoe", f"Id       Address              Device\n{row}")
    what = "eth0 carries a PPPoE line" if line == "eth0" else "eth0 carries eth0.7"
    assert ask(host) == [HostUse(ADDRESS, what)]


def test_a_default_route_without_an_address_is_a_use(host: FakeSysfs) -> None:
    host.add_interface(Interface(2, "eth0", has_default_route=True), NIC)
    assert ask(host) == [HostUse(ADDRESS, "eth0 has the default route")]


@pytest.mark.parametrize("kind", ["bridge", "bond", "team", "openvswitch", "vrf"])
def test_a_port_of_another_interface_is_in_use(host: FakeSysfs, kind: str) -> None:
    host.add_interface(Interface(2, "eth0", master=3), NIC)
    host.add_interface(Interface(3, "up0", kind=kind))
    assert ask(host) == [HostUse(ADDRESS, f"eth0 is in the {kind} up0")]


def test_a_port_of_an_interface_that_is_gone_is_in_use_still(host: FakeSysfs) -> None:
    host.add_interface(Interface(2, "eth0", master=3), NIC)
    assert ask(host) == [HostUse(ADDRESS, "eth0 is in a bridge or bond")]


def test_a_vlan_counts_once_it_has_an_address_or_a_bridge(host: FakeSysfs) -> None:
    host.add_interface(Interface(2, "eth0"), NIC)
    host.add_interface(Interface(4, "eth0.100", kind="vlan", lower=2))
    assert ask(host) == []
    host.add_interface(Interface(5, "eth0.100.7", kind="vlan", lower=4, addresses=("10.7.0.1",)))
    assert ask(host) == [HostUse(ADDRESS, "eth0 carries eth0.100")]


@pytest.mark.parametrize("kind", ["macvtap", "macvlan", "ipvlan", "ipvtap"])
def test_a_guest_s_share_of_an_interface_has_no_address_here(host: FakeSysfs, kind: str) -> None:
    host.add_interface(Interface(2, "eth0"), NIC)
    host.add_interface(Interface(6, "share0", kind=kind, lower=2))
    assert ask(host) == [HostUse(ADDRESS, "eth0 carries share0")]


def test_a_macvlan_in_another_namespace_shows_in_what_the_interface_receives_for(
    host: FakeSysfs,
) -> None:
    own, shares = "52:54:00:00:00:01", ("02:42:ac:11:00:02", "02:42:ac:11:00:03")
    host.add_interface(Interface(2, "eth0", mac=own, receives=(own, *shares)), NIC)
    host.add_interface(Interface(3, "vlan0", kind="vlan", lower=2, mac=shares[1]))
    what = f"eth0 receives for {shares[0]}, perhaps a macvlan in a container"
    assert ask(host) == [HostUse(ADDRESS, what, known=False)]


def test_the_interface_of_a_virtual_function_is_not_its_physical_function_s(
    host: FakeSysfs,
) -> None:
    virtual_function = host.add_pci("0000:01:00.1", vendor_id="8086", device_id="10ed")
    host.add_interface(Interface(2, "eth0"), NIC)
    host.add_interface(Interface(3, "eth1", addresses=("10.0.0.1",)), virtual_function)
    assert ask(host) == []


def test_an_interface_in_another_namespace_is_not_known_to_be_idle(host: FakeSysfs) -> None:
    (use,) = ask(host)
    assert use.what == "the link of eth0 is not down, and its addresses cannot be seen from here"
    assert not use.known


def test_a_network_device_without_any_interface_is_not_known_to_be_idle(host: FakeSysfs) -> None:
    (use,) = ask(host, tree=())
    assert use.what.startswith("no network interface of it can be seen from here")
    assert not use.known


def test_a_hidden_interface_whose_link_libvirt_calls_down_is_idle(host: FakeSysfs) -> None:
    assert ask(host, tree=[replace(CHILD, link="down")]) == []


def test_a_network_device_without_a_driver_has_no_interface_to_lose(host: FakeSysfs) -> None:
    view = LocalHost(host.root, host.read_interfaces)
    assert HostUsage(list, view).list_uses([replace(NODE, driver=None)]) == []


@pytest.mark.parametrize("error", [errno.EAFNOSUPPORT, errno.EPERM])
def test_a_sandbox_without_netlink_leaves_libvirt_s_own_view(host: FakeSysfs, error: int) -> None:
    def refuse() -> Sequence[Interface]:
        raise OSError(error, "no netlink")

    host.add_interface(Interface(2, "eth0"), NIC)
    (use,) = HostUsage(lambda: [CHILD], LocalHost(host.root, refuse)).list_uses([NODE])
    assert not use.known


def test_storage_and_network_of_one_device_are_both_told(host: FakeSysfs) -> None:
    host.mount("/srv", host.add_disk("sda", f"{NIC}/host0/block"))
    host.add_interface(Interface(2, "eth0", addresses=("10.0.0.1",)), NIC)
    assert [use.what for use in ask(host)] == ["sda carries /srv", "eth0 has the address 10.0.0.1"]
