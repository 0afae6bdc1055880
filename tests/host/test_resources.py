"""What the host has, where libvirt says little or things vanish meanwhile."""

from __future__ import annotations

import libvirt
import pytest

from hypeman_libvirt.devices.errors import LibvirtUnavailableError
from hypeman_libvirt.host.libvirt_host import LibvirtHost
from hypeman_libvirt.resources.model import Guest, StoragePool
from tests.fake_host import FakeHost

NIC = "0000:3b:00.0"
GUEST = """
<domain type='kvm'><name>busy</name><uuid>6c0f6d3e-11a5-4f5b-8a4d-0f4f1d0a7a11</uuid>
<memory unit='GiB'>4</memory><vcpu>2</vcpu><devices>{}</devices></domain>
"""
LIMITED = """
<interface type='network'><bandwidth>
<inbound average='1000' peak='5000'/><outbound average='128'/></bandwidth></interface>
<interface type='network'><bandwidth><inbound average='24'/></bandwidth></interface>
"""


def add_interface(fake_host: FakeHost, name: str, parent: str, path: str, link: str) -> None:
    fake_host.add_node(
        f"<device><name>net_{name}</name><path>{path}</path><parent>{parent}</parent>"
        f"<capability type='net'><interface>{name}</interface>{link}</capability></device>"
    )


def busy_guest(fake_host: FakeHost, libvirt_host: LibvirtHost, devices: str) -> Guest:
    fake_host.add_domain_xml(GUEST.format(devices), running=True)
    return next(each for each in libvirt_host.resources.read().guests if each.name == "busy")


def test_a_domain_that_is_shut_off_takes_nothing(libvirt_host: LibvirtHost) -> None:
    assert [each.name for each in libvirt_host.resources.read().guests] == ["vm-on"]


def test_the_limits_of_all_interfaces_add_up(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    guest = busy_guest(fake_host, libvirt_host, LIMITED)
    assert (guest.cpus, guest.memory) == (2, 4 * 1024**3)
    assert (guest.download, guest.upload) == (1_024_000, 128_000)


def test_a_domain_that_ends_meanwhile_is_left_out(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.refuse("info", libvirt.VIR_ERR_NO_DOMAIN)
    assert libvirt_host.resources.read().guests == []


def test_a_pool_that_is_stopped_meanwhile_is_left_out(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.pools = [("dir", 100, 60, 40), None]
    assert libvirt_host.resources.read().pools == [StoragePool("dir", 100, 60, 40)]


@pytest.mark.parametrize("code", [libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_ACCESS_DENIED])
def test_storage_that_cannot_be_seen_is_not_known(
    fake_host: FakeHost, libvirt_host: LibvirtHost, code: int
) -> None:
    fake_host.refuse("listAllStoragePools", code)
    assert libvirt_host.resources.read().pools is None


def test_only_the_links_of_cards_count_and_only_once(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.add_pci("0000:3b:00.2", class_code="020000", group=31, physical_function=NIC)
    card, virtual = (f"/sys/devices/pci0000:3b/{each}" for each in (NIC, "0000:3b:00.2"))
    up = "<link speed='25000' state='up'/>"
    add_interface(fake_host, "ens2", "pci_0000_3b_00_0", f"{card}/net/ens2", up)
    add_interface(fake_host, "ens2v0", "pci_0000_3b_00_2", f"{virtual}/net/ens2v0", up)
    add_interface(fake_host, "br0", "computer", "/sys/devices/virtual/net/br0", up)
    add_interface(fake_host, "ens3", "pci_0000_3b_00_0", f"{card}/net/ens3", "<link state='down'/>")
    odd = "<link speed='fast' state='up'/>"
    add_interface(fake_host, "ens4", "pci_0000_3b_00_0", f"{card}/net/ens4", odd)
    assert libvirt_host.resources.read().link_speed == 25_000_000_000 // 8


@pytest.mark.parametrize("speed", ["", "speed='4294967295'"])
def test_links_without_a_speed_are_not_known(
    fake_host: FakeHost, libvirt_host: LibvirtHost, speed: str
) -> None:
    link = f"<link {speed} state='up'/>"
    add_interface(fake_host, "ens2", "pci_0000_3b_00_0", f"/sys/{NIC}/net/ens2", link)
    assert libvirt_host.resources.read().link_speed is None


def test_while_libvirt_is_down_nothing_is_told(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.down()
    with pytest.raises(LibvirtUnavailableError):
        libvirt_host.resources.read()


@pytest.mark.parametrize("domain", [libvirt.VIR_FROM_RPC])
@pytest.mark.parametrize("code", [libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_INTERNAL_ERROR])
def test_without_the_daemon_of_a_part_the_part_is_left_out_and_the_connection_stays(
    fake_host: FakeHost, libvirt_host: LibvirtHost, code: int, domain: int
) -> None:
    for call in ("listAllStoragePools", "networkLookupByName"):
        fake_host.refuse(call, code, domain)
    for _ in range(2):
        assert libvirt_host.resources.read().pools is None
        assert libvirt_host.resources.platform().network is None
    assert libvirt_host.count_losses() == 0
    assert fake_host.open_connections == 1


def test_a_daemon_that_came_back_is_seen_though_the_connection_lost_it_for_ever(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.pools = [("dir", 100, 60, 40)]
    fake_host.refuse("listAllStoragePools", 1, libvirt.VIR_FROM_RPC, times=1)
    assert libvirt_host.resources.read().pools == [StoragePool("dir", 100, 60, 40)]
    assert libvirt_host.count_losses() == 0


def test_a_connection_that_broke_is_opened_again_for_a_part_too(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.pools = [("dir", 100, 60, 40)]
    libvirt_host.key()
    fake_host.drop_connections(unnoticed=True)
    assert libvirt_host.resources.read().pools == [StoragePool("dir", 100, 60, 40)]
    assert libvirt_host.count_losses() == 1
