"""Where cards are now: addresses change hands, and each belongs to one registration."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.card import Fingerprint, Markings
from hypeman_libvirt.devices.errors import ConflictError
from hypeman_libvirt.devices.identity import Known, could_be
from hypeman_libvirt.devices.model import Registration
from hypeman_libvirt.registry import SqlRegistry
from tests.registry.registrations import L4, nth

X, Y, Z = (PciAddress(0, bus, 0, 0) for bus in (1, 2, 3))
CARD = Fingerprint(
    vendor_id="10de",
    device_id="27b8",
    class_code=0x030200,
    markings=Markings(vpd="SN-0001", pcie="", subsystem="1028:16c1"),
    topology="pci0000:00/08.0/00.0",
    card="10de:27b8",
    virtual_function=2,
    functions=frozenset({"0 10de:27b8", "1 10de:22bc"}),
    family={"pci0000:00/08.0/00.0": Markings(vpd="SN-0001"), "pci0000:00/09.0/00.0": Markings()},
    incarnation="826c7a8a-5986-44b5-ac5a-687488b7671e:3690",
)


@pytest.fixture
def registry(path: Path) -> Iterator[SqlRegistry]:
    registry = SqlRegistry(path)
    yield registry
    registry.close()


def add(registry: SqlRegistry, number: int, address: PciAddress) -> Registration:
    registration = nth(number, pci_address=address)
    registry.add(registration)
    return registration


def moved(registration: Registration, to: PciAddress) -> tuple[Registration, Registration]:
    return registration, replace(
        registration, pci_address=to, moved_from=registration.pci_address, fingerprint=CARD
    )


def test_a_fingerprint_comes_back_as_it_was(registry: SqlRegistry) -> None:
    registration = nth(1, fingerprint=CARD, moved_from=X)
    registry.add(registration)
    assert registry.find(L4.host, "id1") == registration


def test_a_registration_of_0_1_gets_its_fingerprint(registry: SqlRegistry) -> None:
    old = add(registry, 1, X)
    assert old.fingerprint is None
    new = replace(old, fingerprint=CARD)
    assert registry.place([(old, new)]) == 1
    assert registry.find_by_device(L4.host, X) == new


def test_two_cards_that_swapped_are_placed_at_once(registry: SqlRegistry) -> None:
    left, right = add(registry, 1, X), add(registry, 2, Y)
    pairs = [moved(left, Y), moved(right, X)]
    assert registry.place(pairs) == 2
    assert registry.list_registrations(L4.host, {}) == [new for _, new in pairs]


def test_who_is_nowhere_loses_the_address_to_the_card_that_is_there(registry: SqlRegistry) -> None:
    left, gone = add(registry, 1, X), add(registry, 2, Y)
    registry.place([moved(left, Y)])
    found = registry.find_by_device(L4.host, Y)
    assert found is not None
    assert found.id == left.id
    assert registry.find(L4.host, gone.id) == replace(gone, displaced=True)


def test_who_was_displaced_comes_back_elsewhere(registry: SqlRegistry) -> None:
    left, gone = add(registry, 1, X), add(registry, 2, Y)
    registry.place([moved(left, Y)])
    back = moved(replace(gone, displaced=True), Z)
    assert registry.place([back]) == 1
    assert registry.find_by_device(L4.host, Z) == replace(back[1], displaced=False)


def test_an_address_that_was_left_is_free(registry: SqlRegistry) -> None:
    left, gone = add(registry, 1, X), add(registry, 2, Y)
    registry.place([moved(left, Y)])
    registry.add(nth(3, pci_address=X))
    with pytest.raises(ConflictError, match=left.id):
        registry.add(nth(4, pci_address=Y))
    assert registry.find(L4.host, gone.id) is not None


def test_who_was_placed_meanwhile_is_left_there(registry: SqlRegistry) -> None:
    left = add(registry, 1, X)
    first = moved(left, Y)
    assert registry.place([first]) == 1
    assert registry.place([moved(left, Z)]) == 0
    assert registry.find(L4.host, left.id) == first[1]


def test_a_damaged_fingerprint_is_trusted_with_no_card(
    registry: SqlRegistry, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registration = nth(1, fingerprint=CARD)
    registry.add(registration)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("""UPDATE registrations SET fingerprint = '{"card": 1}'""")
    read = registry.find(L4.host, "id1")
    assert read is not None
    assert read.fingerprint is not None
    assert not could_be(Known("id1", X, read.fingerprint), CARD)
    assert "id1 is damaged" in caplog.text
