"""Boot rules: stored, found on registrations, and where the cards go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.registry import SqlRegistry
from tests.registry.registrations import L4, nth
from tests.registry.test_placing import CARD, moved

HOST = L4.host
TO_VFIO = BootRule(L4.pci_address, "10de", "27b8", "pci0000:a0/00.0")
FUNCTIONS = BootRule(PciAddress.parse("0000:3b:00.0"), "15b3", "101d", None, 4, autoprobe=True)


@pytest.fixture
def registry(path: Path) -> Iterator[SqlRegistry]:
    registry = SqlRegistry(path)
    yield registry
    registry.close()


def test_rules_are_stored_replaced_and_forgotten(registry: SqlRegistry) -> None:
    for rule in (TO_VFIO, FUNCTIONS):
        registry.put_boot_rule(HOST, rule)
    registry.put_boot_rule("another host", replace(TO_VFIO, vendor_id="8086"))
    assert registry.list_boot_rules(HOST) == [FUNCTIONS, TO_VFIO]
    fewer = replace(FUNCTIONS, virtual_functions=2)
    registry.put_boot_rule(HOST, fewer)
    assert registry.boot_rule(HOST, FUNCTIONS.address) == fewer
    registry.forget_boot_rule(HOST, TO_VFIO.address)
    assert registry.list_boot_rules(HOST) == [fewer]
    assert registry.boot_rule(HOST, TO_VFIO.address) is None
    assert len(registry.list_boot_rules("another host")) == 1


def test_a_registration_is_persistent_where_a_rule_binds_it(registry: SqlRegistry) -> None:
    registry.add(L4)
    assert registry.find(HOST, L4.id) == L4
    registry.put_boot_rule(HOST, replace(FUNCTIONS, address=L4.pci_address))
    assert registry.find(HOST, L4.id) == L4  # it makes virtual functions, and stays on its driver
    registry.put_boot_rule(HOST, TO_VFIO)
    assert registry.find(HOST, L4.id) == replace(L4, persistent=True)
    assert registry.list_registrations(HOST, {}) == [replace(L4, persistent=True)]


def test_rules_go_where_the_cards_go(registry: SqlRegistry) -> None:
    here, there = PciAddress(0, 1, 0, 0), PciAddress(0, 2, 0, 0)
    one, two = nth(1, pci_address=here), nth(2, pci_address=there)
    for each in (one, two):
        registry.add(each)
    registry.put_boot_rule(HOST, replace(TO_VFIO, address=here))
    assert registry.place([moved(one, there), moved(two, here)]) == 2
    assert registry.list_boot_rules(HOST) == [
        replace(TO_VFIO, address=there, topology=CARD.topology)
    ]
    found = registry.find(HOST, one.id)
    assert found is not None
    assert (found.pci_address, found.persistent) == (there, True)


def test_another_host_takes_over_the_rules(registry: SqlRegistry) -> None:
    registry.add(L4)
    registry.put_boot_rule(HOST, TO_VFIO)
    assert registry.adopt(HOST, "another") == 1
    assert registry.list_boot_rules("another") == [TO_VFIO]
    assert registry.list_boot_rules(HOST) == []
