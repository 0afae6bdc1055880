"""What the feed makes of two snapshots, and what becomes of the thread that polls."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from hypeman_libvirt.devices.event_feed import (
    DeviceSnapshot,
    EventFeed,
    steps_between,
    what_happened,
)
from hypeman_libvirt.devices.inventory import Inventory
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.devices.ports import HostView
from tests.devices.test_bind import ALONE, register
from tests.fake_host import FakeHost
from tests.world import World

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost

A_WHILE = 10.0
OLD = DeviceSnapshot("old", "l4-old", present=True, driver="nvidia", attached_to=None)
NEW = replace(OLD, device_id="new", name="l4-new")


def between(before: DeviceSnapshot | None, after: DeviceSnapshot | None) -> list[str]:
    return [event for step in steps_between(before, after) for event in what_happened(*step)]


def test_a_device_that_was_registered_anew_was_unregistered_first() -> None:
    assert between(OLD, NEW) == ["unregistered", "registered"]
    assert [after.device_id for _, after in steps_between(OLD, NEW)] == [None, "new"]


def test_the_old_registration_lost_the_device_before_the_new_one_gave_it_away() -> None:
    held = replace(OLD, driver="vfio-pci", attached_to="one")
    assert between(held, replace(NEW, driver="vfio-pci", attached_to="two")) == [
        "detached",
        "unregistered",
        "registered",
        "attached",
    ]
    assert between(held, replace(NEW, attached_to="one", driver="vfio-pci")) == [
        "unregistered",
        "registered",
    ]


@pytest.mark.parametrize(
    ("before", "after", "events"),
    [
        (None, OLD, ["appeared", "registered"]),
        (OLD, None, ["unregistered", "vanished"]),
        (OLD, OLD, []),
        (OLD, replace(OLD, driver="vfio-pci"), ["bound"]),
    ],
)
def test_other_differences_are_one_step(
    before: DeviceSnapshot | None, after: DeviceSnapshot | None, events: list[str]
) -> None:
    assert len(steps_between(before, after)) == 1
    assert between(before, after) == events


def test_each_event_names_the_registration_that_it_is_about(world: World) -> None:
    old = register(world, ALONE, "l4-old").registration
    feed = world.service.event_feed
    feed.poll()
    world.registry.remove(old.host, old.id)
    world.registry.add(replace(old, id="tz4a98xxat96iws9zmbrgj3a", name="l4-new"))
    feed.poll()
    with feed.listen(first_id(world)) as events:
        past = [next(events) for _ in range(2)]
    assert [(event.type, event.name) for event in past if event] == [
        ("unregistered", "l4-old"),
        ("registered", "l4-new"),
    ]


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 18, "", "-1", "٣"])
def test_a_last_event_id_that_was_never_given_starts_with_what_comes_next(
    world: World, number: str
) -> None:
    epoch, _, _ = first_id(world).rpartition("-")
    with world.service.event_feed.listen(f"{epoch}-{number}") as events:
        assert next(events) is None


def test_the_thread_that_looks_outlives_a_failure_that_nobody_foresaw(
    world: World, fake_host: FakeHost
) -> None:
    host = Stumbling(world.host, RuntimeError("no DeviceError"))
    with closing(feed_on(world, host)) as feed, feed.listen(None) as events:
        host.stumble()
        fake_host.set_driver(ALONE, "vfio-pci")
        assert next(event.type for event in events if event) == "bound"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_has_died_is_started_again(world: World, fake_host: FakeHost) -> None:
    host = Stumbling(world.host, SystemExit())
    with closing(feed_on(world, host)) as feed, feed.listen(None):
        host.stumble()
        host.thread.join(A_WHILE)
        assert not host.thread.is_alive()
        with feed.listen(None) as events:
            fake_host.set_driver(ALONE, "vfio-pci")
            assert next(event.type for event in events if event) == "bound"


def first_id(world: World) -> str:
    """Make the id before the first event of this run of the service."""
    return f"{int(world.now.timestamp() * 1000):x}-0"


class Stumbling:
    """A host whose list fails once, when a test says so, in the thread of a feed."""

    def __init__(self, host: LibvirtHost, error: BaseException) -> None:
        self._host = host
        self._error = error
        self._armed = threading.Event()
        self._stumbled = threading.Event()
        self.thread = threading.current_thread()

    def stumble(self) -> None:
        self._armed.set()
        assert self._stumbled.wait(A_WHILE)

    def list_node_devices(self) -> Sequence[NodeDevice]:
        if self._armed.is_set() and not self._stumbled.is_set():
            self.thread = threading.current_thread()
            self._stumbled.set()
            raise self._error
        return self._host.list_node_devices()

    def __getattr__(self, name: str) -> object:
        return getattr(self._host, name)


def feed_on(world: World, host: Stumbling) -> EventFeed:
    view = cast("HostView", host)
    return EventFeed(
        Inventory(view, world.registry),
        view,
        lambda: world.now,
        poll_interval=0.05,
        heartbeat=0.2,
        most_listeners=2,
    )


def test_another_name_or_other_tags_are_an_event() -> None:
    assert between(OLD, replace(OLD, name="renamed")) == ["relabeled"]
    assert between(OLD, replace(OLD, tags={"team": "ml"})) == ["relabeled"]
    assert between(OLD, OLD) == []


def test_a_device_that_is_not_registered_goes_to_a_domain_too() -> None:
    free = replace(OLD, device_id=None, name=None)
    assert between(free, replace(free, attached_to="one")) == ["attached"]
    assert between(replace(free, attached_to="one"), free) == ["detached"]
