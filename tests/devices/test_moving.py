"""Saying where a card is: domains that have it follow, and nobody else's device is touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import (
    BusyError,
    ConflictError,
    DeviceError,
    DeviceNotFoundError,
    IdentityChangedError,
    InUseError,
    InvalidPciAddressError,
    LibvirtFailedError,
    LibvirtUnavailableError,
    NotFoundError,
)
from hypeman_libvirt.host.libvirt_host import LibvirtHost
from tests.fake_errors import INTERNAL
from tests.fake_host import FakeHost
from tests.fake_xml import held, show
from tests.world import OPERATOR, World

LEFT, RIGHT, SPARE, OTHER = (f"0000:{bus}:00.0" for bus in ("51", "52", "53", "54"))
PASSWORD: Final = "<graphics type='vnc' passwd='secret'/>"


def plug(host: FakeHost, address: str, serial: str = "", product: str = "2684") -> None:
    group = 200 + int(address[5:7], 16)
    host.add_pci(address, product=product, driver="nvidia", group=group, serial=serial)


def pull(host: FakeHost, address: str) -> None:
    host.vanish(f"pci_{address.replace(':', '_').replace('.', '_')}")


def defined(host: FakeHost, domain: str) -> list[str]:
    return sorted(each for each in held(host.guest(domain).config) if each[5] == "5")


def live(host: FakeHost, domain: str) -> list[str]:
    return sorted(each for each in held(host.guest(domain).live) if each[5] == "5")


def noted(host: LibvirtHost, domain: str) -> dict[str, str]:
    found = host.find_domain(domain)
    assert found is not None
    return {entry.name: str(entry.device) for entry in host.read_metadata(found)}


def devices_of(host: FakeHost, domain: str) -> str:
    config = host.guest(domain).config
    assert config is not None
    devices = config.find("devices")
    assert devices is not None
    return show(devices)


def definition_of(host: FakeHost, domain: str) -> str:
    config = host.guest(domain).config
    assert config is not None
    return show(config)


def state(world: World, name: str) -> tuple[str, str]:
    device = world.service.inventory.get(name)
    return rules.device_state(device), str(device.registration.pci_address)


def doubtful(host: FakeHost, world: World) -> None:
    """Register two identical cards, give one away, and plug in a third: all may be any."""
    plug(host, LEFT)
    plug(host, RIGHT)
    world.service.register(LEFT, "left", {}, OPERATOR)
    world.service.register(RIGHT, "right", {}, OPERATOR)
    world.service.attach("left", "vm-off", "device", OPERATOR)
    plug(host, SPARE)
    world.service.follow()
    assert {state(world, name)[0] for name in ("left", "right")} == {"moved"}


def test_the_domain_has_the_card_where_it_is_now(
    fake_host: FakeHost, libvirt_host: LibvirtHost, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    doubtful(fake_host, world)
    before = definition_of(fake_host, "vm-off")
    right = world.service.inventory.get("right").registration
    moved = world.service.move("left", SPARE, OPERATOR)
    assert str(moved.registration.pci_address) == SPARE
    assert moved.registration.moved_from == PciAddress.parse(LEFT)
    assert moved.assignment is not None
    assert moved.assignment.domain.name == "vm-off"
    after = definition_of(fake_host, "vm-off")
    own = 'bus="0x53" slot="0x00" function="0x0"'
    assert own in after
    assert after.replace(SPARE, LEFT).replace(own, own.replace("53", "51")) == before
    assert noted(libvirt_host, "vm-off") == {"left": SPARE}
    assert state(world, "left") == ("present", SPARE)
    assert world.service.inventory.get("right").registration == right
    assert state(world, "right")[0] == "moved"
    assert "domain vm-off has 0000:53:00.0 instead of 0000:51:00.0" in caplog.text
    change = world.changes[-1]
    assert (change.action, change.caller) == ("move", OPERATOR)
    world.service.detach("left", OPERATOR)
    assert defined(fake_host, "vm-off") == []


def test_the_same_place_may_be_the_right_one(fake_host: FakeHost, world: World) -> None:
    doubtful(fake_host, world)
    stays = world.service.move("left", LEFT, OPERATOR)
    assert stays.registration.moved_from is None
    assert state(world, "left") == ("present", LEFT)
    assert defined(fake_host, "vm-off") == [LEFT]
    world.service.bind("left", "device", OPERATOR)


def test_a_place_that_another_one_only_may_have_is_taken_from_it(
    fake_host: FakeHost, world: World
) -> None:
    doubtful(fake_host, world)
    world.service.move("left", RIGHT, OPERATOR)
    assert state(world, "left") == ("present", RIGHT)
    assert state(world, "right")[0] == "moved"
    world.service.move("right", LEFT, OPERATOR)
    assert state(world, "right") == ("present", LEFT)
    assert defined(fake_host, "vm-off") == [RIGHT]


def test_two_domains_whose_cards_changed_places_have_them_both(
    fake_host: FakeHost, libvirt_host: LibvirtHost, world: World
) -> None:
    plug(fake_host, LEFT)
    plug(fake_host, RIGHT)
    fake_host.add_domain("vm-second")
    for address, name, domain in ((LEFT, "left", "vm-off"), (RIGHT, "right", "vm-second")):
        world.service.register(address, name, {}, OPERATOR)
        world.service.attach(name, domain, "device", OPERATOR)
    plug(fake_host, SPARE)
    world.service.move("left", RIGHT, OPERATOR)
    assert (defined(fake_host, "vm-off"), defined(fake_host, "vm-second")) == ([RIGHT], [RIGHT])
    world.service.move("right", LEFT, OPERATOR)
    assert (defined(fake_host, "vm-off"), defined(fake_host, "vm-second")) == ([RIGHT], [LEFT])
    assert noted(libvirt_host, "vm-second") == {"right": LEFT}


def test_what_virsh_has_defined_at_the_old_address_moves_too(
    fake_host: FakeHost, world: World
) -> None:
    plug(fake_host, LEFT)
    world.service.register(LEFT, "left", {}, OPERATOR)
    fake_host.virsh_attach("vm-off", LEFT, live=False)
    pull(fake_host, LEFT)
    plug(fake_host, RIGHT)
    world.service.move("left", RIGHT, OPERATOR)
    assert defined(fake_host, "vm-off") == [RIGHT]


def test_functions_that_nobody_registered_go_with_their_card(
    fake_host: FakeHost, world: World
) -> None:
    for address in (LEFT, RIGHT):
        group = int(address[5:7])
        fake_host.add_pci(address, product="2684", driver="nvidia", group=group)
        audio = address[:-1] + "1"
        fake_host.add_pci(audio, product="22bc", driver="snd_hda_intel", group=group)
    world.service.register(LEFT, "left", {}, OPERATOR)
    world.service.attach("left", "vm-off", "group", OPERATOR)
    assert defined(fake_host, "vm-off") == [LEFT, "0000:51:00.1"]
    pull(fake_host, LEFT)
    pull(fake_host, "0000:51:00.1")
    world.service.move("left", RIGHT, OPERATOR)
    assert defined(fake_host, "vm-off") == [RIGHT, "0000:52:00.1"]


def test_an_interface_keeps_its_mac_and_a_definition_its_password(
    fake_host: FakeHost, world: World
) -> None:
    plug(fake_host, LEFT)
    world.service.register(LEFT, "left", {}, OPERATOR)
    source = "<address type='pci' domain='0x0000' bus='0x51' slot='0x00' function='0x0'/>"
    fake_host.add_domain_xml(
        "<domain type='kvm'><name>router</name><devices>"
        f"<interface type='hostdev' managed='yes'><mac address='52:54:00:12:34:56'/>"
        f"<source>{source}</source><vlan><tag id='42'/></vlan></interface>"
        f"{PASSWORD}</devices></domain>"
    )
    before = devices_of(fake_host, "router")
    pull(fake_host, LEFT)
    plug(fake_host, RIGHT)
    world.service.move("left", RIGHT, OPERATOR)
    after = devices_of(fake_host, "router")
    assert after == before.replace("0x51", "0x52")
    assert "secret" in after


def test_a_running_domain_has_what_it_has(
    fake_host: FakeHost, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    plug(fake_host, LEFT)
    plug(fake_host, RIGHT)
    world.service.register(LEFT, "left", {}, OPERATOR)
    world.service.attach("left", "vm-on", "device", OPERATOR)
    plug(fake_host, SPARE)
    world.service.move("left", SPARE, OPERATOR)
    assert (live(fake_host, "vm-on"), defined(fake_host, "vm-on")) == ([LEFT], [SPARE])
    assert "the running domain keeps what it has" in caplog.text
    assert fake_host.driver(SPARE) == "nvidia"


def test_a_move_is_done_once(fake_host: FakeHost, world: World) -> None:
    doubtful(fake_host, world)
    first = world.service.move("left", SPARE, OPERATOR)
    calls = fake_host.calls["defineXML"]
    again = world.service.move("left", SPARE, OPERATOR)
    assert again.registration == first.registration
    assert fake_host.calls["defineXML"] == calls


def test_what_was_followed_and_not_rewritten_is_rewritten_by_a_move(
    fake_host: FakeHost, libvirt_host: LibvirtHost, world: World
) -> None:
    plug(fake_host, LEFT, "SN-0001")
    world.service.register(LEFT, "left", {}, OPERATOR)
    world.service.attach("left", "vm-off", "device", OPERATOR)
    pull(fake_host, LEFT)
    plug(fake_host, RIGHT, "SN-0001")
    fake_host.refuse("defineXML", INTERNAL, times=1)
    world.service.follow()
    assert (state(world, "left"), defined(fake_host, "vm-off")) == (("present", RIGHT), [LEFT])
    world.service.move("left", RIGHT, OPERATOR)
    assert defined(fake_host, "vm-off") == [RIGHT]
    assert noted(libvirt_host, "vm-off") == {"left": RIGHT}


REFUSED: Final[dict[str, tuple[str, type[DeviceError], str]]] = {
    "no address": ("51:00.0", InvalidPciAddressError, "51:00.0"),
    "nothing there": ("0000:7f:00.0", DeviceNotFoundError, "no PCI device 0000:7f:00.0"),
    "other ids": (OTHER, IdentityChangedError, "vendor:device 10de:2230 instead of 10de:2684"),
    "another serial": (SPARE, IdentityChangedError, "serial SN-0003 instead of SN-0001"),
    "another's card": (RIGHT, ConflictError, "is registered already as 'right'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_card_that_cannot_be_it_is_refused(fake_host: FakeHost, world: World, case: str) -> None:
    plug(fake_host, LEFT, "SN-0001")
    plug(fake_host, RIGHT)
    world.service.register(LEFT, "left", {}, OPERATOR)
    world.service.register(RIGHT, "right", {}, OPERATOR)
    world.service.attach("left", "vm-off", "device", OPERATOR)
    pull(fake_host, LEFT)
    plug(fake_host, SPARE, "SN-0003")
    plug(fake_host, OTHER, product="2230")
    address, error, message = REFUSED[case]
    if case == "another's card":
        pull(fake_host, SPARE)
        world.service.move("right", RIGHT, OPERATOR)
    before = world.service.inventory.get("left").registration
    with pytest.raises(error, match=message):
        world.service.move("left", address, OPERATOR)
    assert world.service.inventory.get("left").registration == before
    assert defined(fake_host, "vm-off") == [LEFT]


def test_a_card_whose_serial_is_read_elsewhere_is_there(fake_host: FakeHost, world: World) -> None:
    plug(fake_host, LEFT, "SN-0001")
    plug(fake_host, RIGHT)
    world.service.register(LEFT, "left", {}, OPERATOR)
    with pytest.raises(IdentityChangedError, match=r"is at 0000:51:00\.0, by its serial number"):
        world.service.move("left", RIGHT, OPERATOR)


def test_what_is_not_registered_does_not_move(fake_host: FakeHost, world: World) -> None:
    plug(fake_host, LEFT)
    with pytest.raises(NotFoundError):
        world.service.move("nonesuch", LEFT, OPERATOR)


def test_a_domain_that_has_the_new_address_already_is_named(
    fake_host: FakeHost, world: World
) -> None:
    doubtful(fake_host, world)
    fake_host.virsh_attach("vm-off", SPARE, live=False)
    with pytest.raises(InUseError, match=r"0000:53:00\.0 is in use by domain vm-off"):
        world.service.move("left", SPARE, OPERATOR)
    assert defined(fake_host, "vm-off") == [LEFT, SPARE]


@pytest.mark.parametrize("key", [f"device {LEFT}", f"device {SPARE}", "domain"])
def test_an_operation_under_way_comes_first(fake_host: FakeHost, world: World, key: str) -> None:
    doubtful(fake_host, world)
    key = f"domain {fake_host.guest('vm-off').uuid}" if key == "domain" else key
    with world.base.locks.hold([key]), pytest.raises(BusyError):
        world.service.move("left", SPARE, OPERATOR)
    assert defined(fake_host, "vm-off") == [LEFT]


FAULTS: Final[dict[str, Callable[[FakeHost], None]]] = {
    "refused definition": lambda host: host.refuse("defineXML", INTERNAL, times=1),
    "lost reply to the definition": lambda host: host.lose_reply("defineXML"),
    "refused note": lambda host: host.refuse("setMetadata", INTERNAL, times=1),
    "lost reply to the note": lambda host: host.lose_reply("setMetadata"),
    "second of two definitions": lambda host: host.fail_after("defineXML", 1, INTERNAL),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_move_that_fails_leaves_nothing_behind(
    fake_host: FakeHost, libvirt_host: LibvirtHost, world: World, fault: str
) -> None:
    doubtful(fake_host, world)
    fake_host.add_domain("vm-second")
    fake_host.virsh_attach("vm-second", LEFT, live=False)
    before = world.service.inventory.get("left").registration
    definitions = [definition_of(fake_host, each) for each in ("vm-off", "vm-second")]
    FAULTS[fault](fake_host)
    with pytest.raises((LibvirtFailedError, LibvirtUnavailableError)):
        world.service.move("left", SPARE, OPERATOR)
    after = [definition_of(fake_host, each) for each in ("vm-off", "vm-second")]
    assert after == definitions
    assert noted(libvirt_host, "vm-off") == {"left": LEFT}
    assert world.service.inventory.get("left").registration == before
    assert state(world, "left")[0] == "moved"


def test_each_call_that_fails_leaves_a_move_done_or_undone(
    fake_host: FakeHost, world: World
) -> None:
    doubtful(fake_host, world)
    before = fake_host.calls.copy()
    world.service.move("left", SPARE, OPERATOR)
    made = fake_host.calls - before
    assert {"defineXML", "setMetadata", "domainXMLDesc"} <= made.keys()
    world.service.move("left", LEFT, OPERATOR)
    for call, count in made.items():
        for successes in {0, count - 1}:
            fake_host.fail_after(call, successes, INTERNAL)
            try:
                world.service.move("left", SPARE, OPERATOR)
            except DeviceError:
                expected = LEFT
            else:
                expected = SPARE
            fake_host.allow(call)
            assert defined(fake_host, "vm-off") == [expected], (call, successes)
            assert state(world, "left") == ("present", expected), (call, successes)
            world.service.move("left", LEFT, OPERATOR)
