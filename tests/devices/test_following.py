"""The service after cards have moved: what it follows, and what it does with nobody's card."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import BusyError, IdentityChangedError
from tests.fake_errors import INTERNAL
from tests.fake_host import FakeHost
from tests.fake_xml import held, show
from tests.world import OPERATOR, World

LEFT, RIGHT, SPARE = "0000:51:00.0", "0000:52:00.0", "0000:53:00.0"


def plug(host: FakeHost, address: str, serial: str = "") -> None:
    group = 200 + int(address[5:7], 16)
    host.add_pci(address, product="2684", driver="nvidia", group=group, serial=serial)


def pull(host: FakeHost, address: str) -> None:
    host.vanish(f"pci_{address.replace(':', '_').replace('.', '_')}")


def swap(host: FakeHost, left: str, right: str) -> None:
    """Plug in two cards the other way round."""
    pull(host, LEFT)
    pull(host, RIGHT)
    plug(host, LEFT, right)
    plug(host, RIGHT, left)


def states(world: World) -> dict[str, tuple[str, str]]:
    devices = world.service.inventory.list_devices({})
    return {
        each.registration.name: (rules.device_state(each), str(each.registration.pci_address))
        for each in devices
    }


def test_swapped_cards_are_followed_by_their_serials(
    fake_host: FakeHost, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    plug(fake_host, LEFT, "SN-0001")
    plug(fake_host, RIGHT, "SN-0002")
    world.service.register(LEFT, "left", {}, OPERATOR)
    world.service.register(RIGHT, "right", {}, OPERATOR)
    swap(fake_host, "SN-0001", "SN-0002")
    # The answer is right before anything is written down, and a change waits for that.
    assert states(world) == {"left": ("present", RIGHT), "right": ("present", LEFT)}
    with pytest.raises(BusyError, match="about to be followed"):
        world.service.bind("left", "device", OPERATOR)
    assert fake_host.driver(LEFT) == "nvidia"
    followed = world.service.follow()
    assert {each.name: str(each.pci_address) for each in followed} == {"left": RIGHT, "right": LEFT}
    assert "left (id" in caplog.text
    assert world.service.follow() == []
    device = world.service.bind("left", "device", OPERATOR)
    assert device.registration.moved_from == PciAddress.parse(LEFT)
    assert (fake_host.driver(LEFT), fake_host.driver(RIGHT)) == ("nvidia", "vfio-pci")


def test_a_card_that_may_be_another_is_bound_unbound_and_attached_by_nobody(
    fake_host: FakeHost, world: World
) -> None:
    plug(fake_host, LEFT)
    plug(fake_host, RIGHT)
    world.service.register(LEFT, "left", {}, OPERATOR)
    world.service.bind("left", "device", OPERATOR)
    plug(fake_host, SPARE)
    device = world.service.inventory.get("left")
    assert rules.device_state(device) == "moved"
    assert device.verdict is not None
    assert [str(each) for each in device.verdict.candidates] == [LEFT, RIGHT, SPARE]
    world.service.follow()
    for refused in (
        lambda: world.service.unbind("left", "device", OPERATOR),
        lambda: world.service.attach("left", "vm-off", "device", OPERATOR),
        lambda: world.service.unregister("left", OPERATOR, "device"),
    ):
        with pytest.raises(IdentityChangedError, match="may be at"):
            refused()
    assert fake_host.driver(LEFT) == "vfio-pci"
    report = world.service.preflight.of_device("left")
    assert not report.ready
    assert "may be at" in report.checks[0].message
    world.service.unregister("left", OPERATOR)


def test_a_registration_of_0_1_gets_its_fingerprint_when_it_is_certain(
    fake_host: FakeHost, world: World
) -> None:
    plug(fake_host, LEFT)
    new = world.service.register(LEFT, "left", {}, OPERATOR).registration
    world.registry.remove(new.host, new.id)
    world.registry.add(replace(new, fingerprint=None))
    assert world.service.follow() == []
    kept = world.registry.find(new.host, new.id)
    assert kept is not None
    assert kept.fingerprint == new.fingerprint


def test_who_lost_its_address_has_nothing_of_its_new_owner(
    fake_host: FakeHost, world: World
) -> None:
    plug(fake_host, LEFT, "SN-0001")
    plug(fake_host, RIGHT, "SN-0002")
    world.service.register(LEFT, "left", {}, OPERATOR)
    world.service.register(RIGHT, "right", {}, OPERATOR)
    for address in (LEFT, RIGHT):
        pull(fake_host, address)
    plug(fake_host, RIGHT, "SN-0001")
    world.service.follow()
    world.service.attach("left", "vm-off", "device", OPERATOR)
    gone = world.service.inventory.get("right")
    assert (rules.device_state(gone), gone.node, gone.assignment) == ("missing", None, None)
    assert world.service.inventory.get(RIGHT).registration.name == "left"
    world.service.unregister("right", OPERATOR)


def test_a_move_is_one_event(fake_host: FakeHost, world: World) -> None:
    plug(fake_host, LEFT, "SN-0001")
    world.service.register(LEFT, "left", {}, OPERATOR)
    with world.service.event_feed.listen(None) as events:
        pull(fake_host, LEFT)
        plug(fake_host, SPARE, "SN-0001")
        world.service.follow()
        seen = [event for event in islice(events, 4) if event is not None]
    moves = [each for each in seen if each.type == "moved"]
    assert [(each.name, str(each.pci_address)) for each in moves] == [("left", SPARE)]
    assert {"registered", "unregistered"}.isdisjoint(each.type for each in seen)


def give_to(host: FakeHost, world: World, domains: dict[str, str]) -> None:
    """Register a card with a serial number for each domain, and attach it there."""
    for address, domain in domains.items():
        plug(host, address, f"SN-{address[5:7]}")
        world.service.register(address, f"card-{address[5:7]}", {}, OPERATOR)
        if domain:
            world.service.attach(f"card-{address[5:7]}", domain, "device", OPERATOR)


def defined(host: FakeHost, domain: str) -> list[str]:
    return sorted(each for each in held(host.guest(domain).config) if each[5] == "5")


def definition_of(host: FakeHost, domain: str) -> str:
    config = host.guest(domain).config
    assert config is not None
    return show(config)


def test_domains_go_with_cards_that_are_followed(
    fake_host: FakeHost, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    fake_host.add_domain("vm-second")
    give_to(fake_host, world, {LEFT: "vm-off", RIGHT: "vm-second"})
    swap(fake_host, "SN-51", "SN-52")
    world.service.follow()
    assert (defined(fake_host, "vm-off"), defined(fake_host, "vm-second")) == ([RIGHT], [LEFT])
    assert "domain vm-off has 0000:52:00.0 instead of 0000:51:00.0" in caplog.text
    calls = fake_host.calls["defineXML"]
    world.service.follow()
    assert fake_host.calls["defineXML"] == calls


def test_a_domain_with_both_cards_has_them_both(fake_host: FakeHost, world: World) -> None:
    give_to(fake_host, world, {LEFT: "vm-off", RIGHT: "vm-off"})
    first = definition_of(fake_host, "vm-off")
    swap(fake_host, "SN-51", "SN-52")
    world.service.follow()
    assert definition_of(fake_host, "vm-off") != first
    assert defined(fake_host, "vm-off") == [LEFT, RIGHT]


def test_a_domain_that_does_not_note_a_card_is_named_and_left(
    fake_host: FakeHost, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    give_to(fake_host, world, {LEFT: ""})
    fake_host.virsh_attach("vm-off", LEFT, live=False)
    pull(fake_host, LEFT)
    plug(fake_host, SPARE, "SN-51")
    world.service.follow()
    assert defined(fake_host, "vm-off") == [LEFT]
    assert "domain vm-off has 0000:51:00.0 in its definition, where another card may" in caplog.text


def test_a_definition_that_could_not_be_rewritten_is_rewritten_the_next_time(
    fake_host: FakeHost, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    give_to(fake_host, world, {LEFT: "vm-off"})
    pull(fake_host, LEFT)
    plug(fake_host, SPARE, "SN-51")
    fake_host.refuse("setMetadata", INTERNAL, times=1)
    world.service.follow()
    assert defined(fake_host, "vm-off") == [LEFT]
    assert "the definition of vm-off still has a card where it was" in caplog.text
    fake_host.virsh_attach("vm-off", SPARE, live=False)
    world.service.follow()
    assert defined(fake_host, "vm-off") == [LEFT, SPARE]
    assert "0000:53:00.0 is in use by domain vm-off" in caplog.text
    fake_host.virsh_detach("vm-off", SPARE, live=False)
    world.service.follow()
    assert defined(fake_host, "vm-off") == [SPARE]


def test_a_card_in_doubt_is_said_once_with_the_domain_that_expects_it(
    fake_host: FakeHost, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    plug(fake_host, LEFT)
    plug(fake_host, RIGHT)
    world.service.register(LEFT, "left", {}, OPERATOR)
    world.service.attach("left", "vm-off", "device", OPERATOR)
    plug(fake_host, SPARE)
    world.service.follow()
    world.service.follow()
    said = [each.message for each in caplog.records if "nothing tells which" in each.message]
    assert len(said) == 1
    assert "it is in the definition of domain vm-off" in said[0]
    fake_host.virsh_detach("vm-off", LEFT, live=False)
    pull(fake_host, SPARE)
    world.service.follow()
    plug(fake_host, SPARE)
    world.service.follow()
    said = [each.message for each in caplog.records if "nothing tells which" in each.message]
    assert len(said) == 2
    assert "definition" not in said[1]


def test_preflight_names_the_domain_that_would_start_with_another_card(
    fake_host: FakeHost, world: World
) -> None:
    plug(fake_host, LEFT, "SN-0001")
    world.service.register(LEFT, "left", {}, OPERATOR)
    world.service.attach("left", "vm-off", "device", OPERATOR)
    pull(fake_host, LEFT)
    plug(fake_host, LEFT, "SN-0002")
    (identity,) = [
        each for each in world.service.preflight.of_device("left").checks if each.id == "identity"
    ]
    assert identity.severity == "error"
    assert "it is in the definition of domain vm-off" in identity.message
    assert "POST /devices/{id}/move" in (identity.hint or "")


def test_preflight_of_a_card_that_gave_its_place_to_another_says_whose_it_is(
    fake_host: FakeHost, world: World
) -> None:
    give_to(fake_host, world, {LEFT: "", RIGHT: "vm-off"})
    pull(fake_host, LEFT)
    pull(fake_host, RIGHT)
    plug(fake_host, RIGHT, "SN-51")
    world.service.follow()
    (endpoint,) = world.service.preflight.of_device("card-52").checks
    assert endpoint.message.startswith("another registration's card is at 0000:52:00.0 now")
    assert "it is in the definition of domain vm-off" in endpoint.message
    own = world.service.preflight.of_device("card-51").checks
    assert [each.id for each in own if each.severity == "error"] == ["in_use"]


def test_the_host_driver_goes_with_its_card(fake_host: FakeHost, world: World) -> None:
    """Noted for an address, it would be another card's after a reboot."""
    for address, serial, driver in ((LEFT, "SN-51", "nvidia"), (RIGHT, "SN-52", "nouveau")):
        group = 200 + int(address[5:7], 16)
        fake_host.add_pci(address, product="2684", driver=driver, group=group, serial=serial)
        audio = address[:-1] + "1"
        fake_host.add_pci(audio, product="22bc", driver=f"snd_{driver}", group=group)
        world.service.register(address, f"card-{serial}", {}, OPERATOR)
        world.service.bind(f"card-{serial}", "group", OPERATOR)
    key = world.host.key()
    swap(fake_host, "SN-51", "SN-52")
    for address in (LEFT, RIGHT):
        pull(fake_host, address[:-1] + "1")
        fake_host.add_pci(
            address[:-1] + "1", product="22bc", group=200 + int(address[5:7], 16), driver="none"
        )
    world.service.follow()
    noted = {
        f"{address[:-1]}{function}": world.registry.host_driver(
            key, PciAddress.parse(f"{address[:-1]}{function}")
        )
        for address in (LEFT, RIGHT)
        for function in "01"
    }
    assert noted == {
        LEFT: "nouveau",
        "0000:51:00.1": "snd_nouveau",
        RIGHT: "nvidia",
        "0000:52:00.1": "snd_nvidia",
    }


def test_what_was_noted_of_a_card_that_is_gone_is_not_said_of_the_next(
    fake_host: FakeHost, world: World
) -> None:
    give_to(fake_host, world, {LEFT: ""})
    key = world.host.key()
    world.registry.note_host_driver(key, PciAddress.parse(SPARE), "nvme")
    pull(fake_host, LEFT)
    plug(fake_host, SPARE, "SN-51")
    world.service.follow()
    assert world.registry.host_driver(key, PciAddress.parse(SPARE)) is None
