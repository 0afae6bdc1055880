"""A change whose reply is lost, and the way back from a change that failed half-way."""

from __future__ import annotations

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.domain import Domain
from hypeman_libvirt.devices.errors import InUseError, LibvirtFailedError, LibvirtUnavailableError
from hypeman_libvirt.host.libvirt_host import LibvirtHost
from hypeman_libvirt.host.xml.domain import without_alias
from tests.fake_host import FakeHost
from tests.fake_xml import held, parse, show

L4, NIC = PciAddress.parse("0000:a2:00.0"), PciAddress.parse("0000:3b:00.0")
INTERFACE = (
    "<interface type='hostdev' managed='yes'><mac address='52:54:00:11:22:33'/>"
    "<source><address domain='0x0000' bus='0x3b' slot='0x00' function='0x0'/></source>"
    "<vlan><tag id='42'/></vlan></interface>"
)


def domain(host: LibvirtHost, name: str) -> Domain:
    found = host.find_domain(name)
    assert found is not None
    return found


def has(host: FakeHost, name: str) -> tuple[set[str], set[str]]:
    guest = host.guest(name)
    return held(guest.live), held(guest.config)


@pytest.mark.parametrize("successes", range(4))
def test_an_attach_whose_reply_is_lost_is_undone(
    fake_host: FakeHost, libvirt_host: LibvirtHost, successes: int
) -> None:
    """libvirt has done it: without a way back the device stays in the domain, and the retry is
    told that the domain has it."""
    vm = domain(libvirt_host, "vm-on")
    with libvirt_host.changes() as changes:
        fake_host.lose_reply("attachDeviceFlags", after=successes)
        with pytest.raises(LibvirtUnavailableError):
            changes.attach(vm, [L4, NIC])
    assert has(fake_host, "vm-on") == (set(), set())
    assert (fake_host.driver(str(L4)), fake_host.driver(str(NIC))) == ("nvidia", "mlx5_core")


@pytest.mark.parametrize("successes", range(4))
def test_a_detach_whose_reply_is_lost_goes_on(
    fake_host: FakeHost, libvirt_host: LibvirtHost, successes: int
) -> None:
    """Both functions of a group are on their host drivers then, and no guest gets one back."""
    group = ["0000:41:00.0", "0000:41:00.1"]
    for each in group:
        fake_host.virsh_attach("vm-off", each, live=False)
    fake_host.start(fake_host.guest("vm-off"))
    vm = domain(libvirt_host, "vm-off")
    with libvirt_host.changes() as changes:
        fake_host.lose_reply("detachDeviceFlags", after=successes)
        changes.detach(vm, [PciAddress.parse(each) for each in group])
    assert has(fake_host, "vm-off") == (set(), set())


def test_a_detach_that_was_not_done_before_its_connection_broke_is_undone(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    for each in (L4, NIC):
        fake_host.virsh_attach("vm-on", str(each))
    vm = domain(libvirt_host, "vm-on")
    asked = 0

    def break_the_second(call: str) -> None:
        nonlocal asked
        asked += call == "detachDeviceFlags"
        if call == "detachDeviceFlags" and asked == 2:
            fake_host.drop_connections()

    fake_host.before_call = break_the_second
    with libvirt_host.changes() as changes, pytest.raises(LibvirtUnavailableError):
        changes.detach(vm, [L4, NIC])
    both = {str(L4), str(NIC)}
    assert has(fake_host, "vm-on") == (both, both)


def test_a_definition_whose_reply_is_lost_is_undone(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    """A driver without attach gets a new definition."""
    vm = domain(libvirt_host, "vm-off")
    fake_host.refuse("attachDeviceFlags", 3)
    fake_host.refuse("detachDeviceFlags", 3)
    with libvirt_host.changes() as changes:
        fake_host.lose_reply("defineXML")
        with pytest.raises(LibvirtUnavailableError):
            changes.attach(vm, [L4])
    assert has(fake_host, "vm-off") == (set(), set())


def test_what_somebody_else_has_attached_meanwhile_is_not_taken_out(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    """libvirt refuses ours, so there is nothing of ours to take back."""
    vm = domain(libvirt_host, "vm-on")
    tried = 0

    def attach_before_us(call: str) -> None:
        nonlocal tried
        tried += call == "attachDeviceFlags"
        if (
            tried == 2 and str(L4) not in has(fake_host, "vm-on")[0]
        ):  # the first is in the definition
            fake_host.virsh_attach("vm-on", str(L4), config=False)

    fake_host.before_call = attach_before_us
    with libvirt_host.changes() as changes, pytest.raises(InUseError):
        changes.attach(vm, [L4])
    assert has(fake_host, "vm-on") == ({str(L4)}, set())


def test_a_detach_that_fails_puts_the_very_interface_back(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    """A bare hostdev in its place would give the guest another MAC and no VLAN."""
    fake_host.attach(fake_host.guest("vm-on"), INTERFACE, True, True)
    vm = domain(libvirt_host, "vm-on")
    fake_host.fail_after("detachDeviceFlags", 1, 38, 0)
    with libvirt_host.changes() as changes, pytest.raises(LibvirtFailedError):
        changes.detach(vm, [NIC])
    live = fake_host.guest("vm-on").live
    assert live is not None
    (interface,) = live.iterfind("devices/interface")
    mac, tag = interface.find("mac"), interface.find("vlan/tag")
    assert mac is not None
    assert tag is not None
    assert (mac.get("address"), tag.get("id")) == ("52:54:00:11:22:33", "42")
    assert live.find("devices/hostdev") is None
    assert has(fake_host, "vm-on") == ({str(NIC)}, {str(NIC)})


@pytest.mark.parametrize(("alias", "stays"), [("hostdev0", False), ("ua-mine", True)])
def test_libvirts_alias_goes_and_the_users_stays(alias: str, stays: bool) -> None:
    element = parse(INTERFACE)
    element.append(parse(f"<alias name='{alias}'/>"))
    assert (f'alias name="{alias}"' in without_alias(show(element))) is stays
    assert "52:54:00:11:22:33" in without_alias(show(element))
