"""Which card a registration means after the machine was opened: stories, and random ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.card import SHARED, Fingerprint, Markings, Verdict
from hypeman_libvirt.devices.fingerprint import Seen, confirm, fingerprint_all, update
from hypeman_libvirt.devices.identity import Known, judge
from hypeman_libvirt.devices.node_device import NodeDevice
from tests.devices.recabling import Judge, play
from tests.effort import examples

LEFT, RIGHT, SPARE = "pci0000:00/01.0", "pci0000:00/02.0", "pci0000:00/03.0"


def card(bus: int, slot: str, **facts: object) -> NodeDevice:
    node = NodeDevice(
        node_name="",
        address=PciAddress(0, bus, 0, 0),
        vendor_id="10de",
        device_id="2330",
        class_code=0x030200,
        topology=f"{slot}/00.0",
    )
    return replace(node, **facts)  # type: ignore[arg-type]


def second(bus: int, slot: str, **facts: object) -> NodeDevice:
    """Function 1 of the card."""
    place = {"address": PciAddress(0, bus, 0, 1), "topology": f"{slot}/00.1"}
    return card(bus, slot, **(place | facts))


def known(name: str, node: NodeDevice, host: Sequence[NodeDevice]) -> Known:
    return Known(name, node.address, fingerprint_all(host)[node.address])


def of_0_1(name: str, node: NodeDevice) -> Known:
    """What the first release wrote down: ids, class and VPD."""
    fingerprint = Fingerprint(
        node.vendor_id, node.device_id, node.class_code, Markings(vpd=node.serial)
    )
    return Known(name, node.address, fingerprint)


def ask(registered: Sequence[Known], *host: NodeDevice) -> dict[str, str]:
    """Say the verdict of each: ``follow 0000:03:00.0`` or ``moved 0000:01:00.0 0000:02:00.0``."""
    verdicts = judge(registered, fingerprint_all(host))
    return {name: _text(verdict) for name, verdict in verdicts.items()}


def _text(verdict: Verdict) -> str:
    places = [] if verdict.state == "present" else [verdict.address, *verdict.candidates]
    return " ".join([verdict.state, *(str(each) for each in places if each is not None)])


def twins(**facts: object) -> tuple[list[NodeDevice], list[Known]]:
    """Two identical cards, registered as ``left`` and ``right``."""
    host = [card(1, LEFT, **facts), card(2, RIGHT, **facts)]
    return host, [known("left", host[0], host), known("right", host[1], host)]


def test_an_untouched_host_has_everything_where_it_was() -> None:
    host, registered = twins()
    assert ask(registered, *host) == {"left": "present", "right": "present"}


def test_identical_cards_are_followed_when_a_bridge_shifts_their_buses() -> None:
    _, registered = twins()
    # The left one now has the address that the right one had.
    now = [card(2, LEFT), card(3, RIGHT)]
    assert ask(registered, *now) == {"left": "follow 0000:02:00.0", "right": "follow 0000:03:00.0"}


def test_identical_cards_that_swapped_are_followed_by_their_serials() -> None:
    before = [card(1, LEFT, serial="SN-0001"), card(2, RIGHT, serial="SN-0002")]
    registered = [known("left", before[0], before), known("right", before[1], before)]
    now = [card(1, LEFT, serial="SN-0002"), card(2, RIGHT, serial="SN-0001")]
    assert ask(registered, *now) == {"left": "follow 0000:02:00.0", "right": "follow 0000:01:00.0"}


@pytest.mark.parametrize("readable", ["serial", "device_serial"])
def test_either_serial_number_follows(readable: str) -> None:
    before = [card(1, LEFT, **{readable: "SN-0001"})]
    registered = [known("gpu", before[0], before)]
    assert ask(registered, card(7, SPARE, **{readable: "SN-0001"})) == {
        "gpu": "follow 0000:07:00.0"
    }


def test_swapped_cards_whose_serials_cannot_be_read_now_are_asked_for() -> None:
    before = [card(1, LEFT, serial="SN-0001"), card(2, RIGHT, serial="SN-0002")]
    registered = [known("left", before[0], before), known("right", before[1], before)]
    both = "moved 0000:01:00.0 0000:02:00.0"
    assert ask(registered, card(1, LEFT), card(2, RIGHT)) == {"left": both, "right": both}


def test_a_single_card_whose_serial_cannot_be_read_now_has_not_changed() -> None:
    before = [card(1, LEFT, serial="SN-0001")]
    registered = [known("gpu", before[0], before)]
    assert ask(registered, card(1, LEFT)) == {"gpu": "present"}


def test_a_card_is_not_taken_for_its_twin_that_was_taken_out() -> None:
    _, registered = twins()
    # Whether the left one was taken out or the right one, which then went into its slot.
    assert ask(registered, card(1, LEFT)) == {
        "left": "moved 0000:01:00.0",
        "right": "moved 0000:01:00.0",
    }


def test_the_twin_of_a_card_that_the_operator_found_is_missing() -> None:
    _, registered = twins()
    now = [card(1, LEFT)]
    right = known("right", now[0], now)
    assert ask([registered[0], right], *now) == {"left": "missing", "right": "present"}


def test_a_third_identical_card_makes_all_of_them_doubtful() -> None:
    _, registered = twins()
    all_three = "moved 0000:01:00.0 0000:02:00.0 0000:03:00.0"
    now = [card(1, LEFT), card(2, RIGHT), card(3, SPARE)]
    assert ask(registered, *now) == {"left": all_three, "right": all_three}


def test_a_third_card_that_is_plugged_into_a_running_host_disturbs_nobody() -> None:
    before = [card(1, LEFT, incarnation="boot:11"), card(2, RIGHT, incarnation="boot:12")]
    registered = [known("left", before[0], before), known("right", before[1], before)]
    now = [*before, card(3, SPARE, incarnation="boot:19")]
    assert ask(registered, *now) == {"left": "present", "right": "present"}


def test_twins_that_are_swapped_on_a_running_host_are_not_taken_for_each_other() -> None:
    before = [card(1, LEFT, serial="SN-0001", incarnation="boot:11"), card(2, RIGHT)]
    registered = [known("gpu", before[0], before)]
    now = [card(1, LEFT, incarnation="boot:18"), card(2, RIGHT, incarnation="boot:19")]
    assert ask(registered, *now) == {"gpu": "moved 0000:01:00.0 0000:02:00.0"}


def test_a_card_without_a_serial_in_another_slot_is_asked_for() -> None:
    before = [card(1, LEFT)]
    registered = [known("gpu", before[0], before)]
    assert ask(registered, card(3, SPARE)) == {"gpu": "moved 0000:03:00.0"}


def test_a_card_whose_old_slot_holds_an_identical_one_is_followed_by_its_serial() -> None:
    before = [card(1, LEFT, serial="SN-0001")]
    registered = [known("gpu", before[0], before)]
    now = [card(1, LEFT, serial="SN-0009"), card(3, SPARE, serial="SN-0001")]
    assert ask(registered, *now) == {"gpu": "follow 0000:03:00.0"}


def test_a_card_is_not_followed_while_the_serial_of_its_twin_cannot_be_read() -> None:
    before = [card(1, LEFT, serial="SN-0001")]
    registered = [known("gpu", before[0], before)]
    now = [card(1, LEFT), card(3, SPARE, serial="SN-0001")]
    assert ask(registered, *now) == {"gpu": "moved 0000:01:00.0 0000:03:00.0"}


def test_another_card_of_the_model_in_the_same_slot_has_changed() -> None:
    before = [card(1, LEFT, serial="SN-0001")]
    registered = [known("gpu", before[0], before)]
    assert ask(registered, card(1, LEFT, serial="SN-0009")) == {"gpu": "changed"}


@pytest.mark.parametrize(
    "facts",
    [{"device_id": "2684"}, {"class_code": 0x010802}, {"subsystem": "1028:0002"}],
)
def test_a_foreign_card_in_the_slot_is_left_alone(facts: Mapping[str, object]) -> None:
    before = [card(1, LEFT, subsystem="10de:16c1")]
    registered = [known("gpu", before[0], before)]
    assert ask(registered, card(1, LEFT, **facts)) == {"gpu": "changed"}


def test_a_foreign_card_at_the_old_address_is_left_alone() -> None:
    before = [card(1, LEFT)]
    registered = [known("gpu", before[0], before)]
    now = [card(1, SPARE, device_id="2684"), card(2, LEFT)]
    assert ask(registered, *now) == {"gpu": "follow 0000:02:00.0"}


def test_nothing_in_its_place_is_missing() -> None:
    before = [card(1, LEFT)]
    registered = [known("gpu", before[0], before)]
    assert ask(registered, card(9, SPARE, device_id="2684")) == {"gpu": "missing"}


def test_another_number_of_functions_is_another_card() -> None:
    before = [card(1, LEFT), second(1, LEFT, device_id="22a3")]
    registered = [known("gpu", before[0], before)]
    assert ask(registered, card(1, LEFT)) == {"gpu": "moved 0000:01:00.0"}


def test_a_function_follows_by_the_serial_of_its_card() -> None:
    before = [card(1, LEFT, serial="SN-0001"), second(1, LEFT, device_id="22a3")]
    registered = [known("audio", before[1], before)]
    now = [card(3, SPARE, serial="SN-0001"), second(3, SPARE, device_id="22a3")]
    assert ask(registered, *now) == {"audio": "follow 0000:03:00.1"}


def test_a_port_of_a_card_is_not_taken_for_the_other_port() -> None:
    before = [card(1, LEFT, device_serial="SN-0001"), second(1, LEFT, device_serial="SN-0001")]
    registered = [known("port-1", before[1], before)]
    assert ask(registered, card(3, SPARE, device_serial="SN-0001")) == {"port-1": "missing"}


@pytest.mark.parametrize("serial", ["0000000000", "ff-ff-ff-ff", "N/A", "Default string", "A1"])
def test_a_placeholder_is_no_serial(serial: str) -> None:
    before = [card(1, LEFT, serial=serial)]
    registered = [known("gpu", before[0], before)]
    assert ask(registered, card(3, SPARE, serial=serial)) == {"gpu": "moved 0000:03:00.0"}


def test_a_serial_that_two_cards_carried_never_follows_again() -> None:
    before = [card(1, LEFT, serial="MODEL-A", incarnation="boot:1")]
    alone = known("gpu", before[0], before)
    both = [*before, card(2, RIGHT, serial="MODEL-A", incarnation="boot:2")]
    again = update(alone.fingerprint, fingerprint_all(both)[alone.address])
    again = update(again, fingerprint_all(before)[alone.address])
    assert again.markings.vpd == SHARED
    assert confirm(again, fingerprint_all(before)[alone.address]).markings.vpd == SHARED
    now = card(3, SPARE, serial="MODEL-A")
    assert ask([replace(alone, fingerprint=again)], now) == {"gpu": "moved 0000:03:00.0"}


def test_two_registrations_with_the_same_claim_get_neither() -> None:
    before = [card(1, LEFT, serial="SN-0001")]
    registered = [known("one", before[0], before), known("other", before[0], before)]
    assert ask(registered, *before) == dict.fromkeys(["one", "other"], "moved 0000:01:00.0")


def test_a_serial_survives_a_reading_that_fails() -> None:
    before = [card(1, LEFT, serial="SN-0001")]
    unread = fingerprint_all([card(1, LEFT)])[before[0].address]
    after = update(fingerprint_all(before)[before[0].address], unread)
    assert after.markings.vpd == "SN-0001"
    assert after.family[f"{LEFT}/00.0"].vpd == "SN-0001"


def network_card(bus: int, slot: str, count: int, **facts: object) -> list[NodeDevice]:
    functions = tuple(PciAddress(0, bus, 0x10, number) for number in range(count))
    physical = card(bus, slot, virtual_functions=functions, **facts)
    return [
        physical,
        *(
            replace(
                card(bus, slot, device_id="101e"),
                address=address,
                topology=f"{slot}/10.{address.function}",
                physical_function=physical.address,
            )
            for address in functions
        ),
    ]


def test_a_virtual_function_goes_where_its_card_goes() -> None:
    before = network_card(1, LEFT, 2, serial="SN-0001")
    registered = [known("vf", before[2], before)]
    assert ask(registered, *network_card(5, SPARE, 3, serial="SN-0001")) == {
        "vf": "follow 0000:05:10.1"
    }


def test_more_virtual_functions_are_no_more_cards() -> None:
    before = network_card(1, LEFT, 1)
    registered = [known("vf", before[1], before), known("pf", before[0], before)]
    assert ask(registered, *network_card(1, LEFT, 3)) == {"vf": "present", "pf": "present"}


def test_a_virtual_function_that_was_not_made_again_is_missing() -> None:
    before = network_card(1, LEFT, 2)
    registered = [known("vf", before[2], before)]
    assert ask(registered, *network_card(1, LEFT, 1)) == {"vf": "missing"}


def test_a_registration_of_0_1_is_present_where_its_model_is_alone() -> None:
    assert ask([of_0_1("gpu", card(1, LEFT))], card(1, LEFT)) == {"gpu": "present"}


def test_registrations_of_0_1_are_not_guessed_between_twins() -> None:
    host, _ = twins()
    registered = [of_0_1("left", host[0]), of_0_1("right", host[1])]
    both = "moved 0000:01:00.0 0000:02:00.0"
    assert ask(registered, *host) == {"left": both, "right": both}


def test_a_registration_of_0_1_speaks_of_a_twin_that_is_gone() -> None:
    host, _ = twins()
    registered = [of_0_1("left", host[0]), of_0_1("right", host[1])]
    assert ask(registered, card(1, LEFT)) == {
        "left": "moved 0000:01:00.0",
        "right": "moved 0000:01:00.0",
    }


def test_both_ports_of_a_card_are_present_for_0_1() -> None:
    host = [card(1, LEFT), second(1, LEFT)]
    registered = [of_0_1("port-0", host[0]), of_0_1("port-1", host[1])]
    assert ask(registered, *host) == {"port-0": "present", "port-1": "present"}


def test_a_registration_of_0_1_is_followed_by_its_serial() -> None:
    before = card(1, LEFT, serial="SN-0001")
    now = [card(4, RIGHT, serial="SN-0002"), card(5, SPARE, serial="SN-0001")]
    assert ask([of_0_1("gpu", before)], *now) == {"gpu": "follow 0000:05:00.0"}


def test_a_host_that_says_no_topology_goes_by_its_buses() -> None:
    before = [card(1, LEFT, topology=None), card(2, RIGHT, topology=None)]
    registered = [known("left", before[0], before)]
    assert ask(registered, *before) == {"left": "present"}
    shifted = [card(2, LEFT, topology=None), card(3, RIGHT, topology=None)]
    assert ask(registered, *shifted) == {"left": "moved 0000:02:00.0 0000:03:00.0"}


@settings(max_examples=examples(400), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False))
def test_no_re_cabling_gives_a_registration_anothers_card(random: Random) -> None:
    assert play(random).wrong == 0


def by_address(registered: Collection[Known], seen: Seen) -> Mapping[str, Verdict]:
    """Take what is at the address for the card if the ids are the same."""
    return {
        each.id: Verdict("present", each.address, "slot")
        if each.address in seen and seen[each.address].card == each.fingerprint.card
        else Verdict("missing")
        for each in registered
    }


def by_slot(registered: Collection[Known], seen: Seen) -> Mapping[str, Verdict]:
    """Take what is in the slot for the card, whatever became of its twins."""
    places = {(found.topology, found.card): address for address, found in seen.items()}
    return {
        each.id: Verdict("present", places[each.fingerprint.topology, each.fingerprint.card])
        if (each.fingerprint.topology, each.fingerprint.card) in places
        else Verdict("missing")
        for each in registered
    }


@pytest.mark.parametrize("careless", [by_address, by_slot])
def test_the_re_cablings_find_careless_rules_out(careless: Judge) -> None:
    assert sum(play(Random(seed), careless).wrong for seed in range(100)) > 10  # noqa: S311
