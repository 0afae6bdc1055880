"""Renaming devices and giving them other tags: nothing moves, and no note is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hypeman_libvirt.devices.errors import (
    BusyError,
    ConflictError,
    InvalidNameError,
    InvalidTagsError,
    LibvirtFailedError,
    NotFoundError,
)
from hypeman_libvirt.host.libvirt_host import LibvirtHost
from tests.fake_errors import INTERNAL
from tests.fake_host import FakeHost
from tests.world import OPERATOR, World, world_on

L4, NIC = "0000:a2:00.0", "0000:3b:00.0"


@pytest.fixture
def world(libvirt_host: LibvirtHost, tmp_path: Path) -> Iterator[World]:
    with world_on(libvirt_host, tmp_path) as world:
        world.service.register(L4, "l4-gpu", {"team": "ml"}, OPERATOR)
        yield world


def test_a_name_and_tags_are_given_one_by_one(world: World) -> None:
    renamed = world.service.relabel("l4-gpu", "l4", None, OPERATOR)
    assert (renamed.registration.name, renamed.registration.tags) == ("l4", {"team": "ml"})
    tagged = world.service.relabel("l4", None, {"env": "test"}, OPERATOR)
    assert (tagged.registration.name, tagged.registration.tags) == ("l4", {"env": "test"})
    assert world.service.relabel(L4, None, {}, OPERATOR).registration.tags == {}
    assert world.service.inventory.get("l4").registration.id == renamed.registration.id


def test_the_log_of_changes_names_both(world: World) -> None:
    world.service.relabel("l4-gpu", "l4", None, OPERATOR)
    change = world.changes[-1]
    assert change.action == "relabel"
    assert change.before is not None
    assert change.after is not None
    assert (change.before.registration.name, change.after.registration.name) == ("l4-gpu", "l4")


def test_a_name_that_is_taken_changes_nothing(world: World) -> None:
    world.service.register(NIC, "nic", {}, OPERATOR)
    with pytest.raises(ConflictError, match="name 'nic' is taken"):
        world.service.relabel("l4-gpu", "nic", {}, OPERATOR)
    kept = world.service.inventory.get("l4-gpu").registration
    assert (kept.name, kept.tags) == ("l4-gpu", {"team": "ml"})


@pytest.mark.parametrize("name", ["", "x", "events", "-l4", "pci_0000_a2_00_0"])
def test_a_name_that_is_none_is_refused(world: World, name: str) -> None:
    with pytest.raises(InvalidNameError):
        world.service.relabel("l4-gpu", name, None, OPERATOR)


def test_a_tag_that_is_none_is_refused(world: World) -> None:
    with pytest.raises(InvalidTagsError):
        world.service.relabel("l4-gpu", None, {"": "x"}, OPERATOR)


def test_what_is_not_registered_has_no_name(world: World) -> None:
    with pytest.raises(NotFoundError):
        world.service.relabel("nonesuch", "l4", None, OPERATOR)


def test_the_domain_that_has_it_notes_the_new_name(world: World, libvirt_host: LibvirtHost) -> None:
    world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)
    renamed = world.service.relabel("l4-gpu", "l4", None, OPERATOR)
    assert renamed.assignment is not None
    (entry,) = libvirt_host.read_metadata(renamed.assignment.domain)
    assert (entry.name, entry.id) == ("l4", renamed.registration.id)


def test_a_note_that_cannot_be_written_takes_the_name_back(
    world: World, libvirt_host: LibvirtHost, fake_host: FakeHost
) -> None:
    attached = world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)
    fake_host.refuse("setMetadata", INTERNAL, times=1)
    with pytest.raises(LibvirtFailedError):
        world.service.relabel("l4-gpu", "l4", None, OPERATOR)
    assert world.service.inventory.get("l4-gpu").registration.name == "l4-gpu"
    assert attached.assignment is not None
    (entry,) = libvirt_host.read_metadata(attached.assignment.domain)
    assert entry.name == "l4-gpu"


def test_an_operation_on_the_device_comes_first(world: World) -> None:
    with world.base.locks.hold([f"device {L4}"]), pytest.raises(BusyError):
        world.service.relabel("l4-gpu", "l4", None, OPERATOR)
