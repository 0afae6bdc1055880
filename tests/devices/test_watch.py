from __future__ import annotations

from collections.abc import Iterator

import pytest

from hypeman_libvirt.devices.model import Event
from tests.devices.test_bind import ALONE, refusal, register
from tests.fake_host import FakeHost
from tests.world import OPERATOR, World


def take(events: Iterator[Event | None], count: int) -> list[str]:
    """The types of the next events, signs of life left out."""
    taken: list[str] = []
    for event in events:
        if event is not None:
            taken.append(event.type)
        if len(taken) == count:
            return taken
    return taken


def test_the_services_own_changes_are_told_each(world: World) -> None:
    with world.service.event_feed.listen(None) as events:
        register(world, ALONE)
        world.service.bind(ALONE, "device", OPERATOR)
        world.service.attach(ALONE, "vm-on", "device", OPERATOR)
        world.service.detach(ALONE, OPERATOR)
        world.service.unbind(ALONE, "device", OPERATOR)
        world.service.unregister(ALONE, OPERATOR)
        assert take(events, 6) == [
            "registered",
            "bound",
            "attached",
            "detached",
            "unbound",
            "unregistered",
        ]


def test_what_virsh_and_sysfs_do_is_told_too(world: World, fake_host: FakeHost) -> None:
    register(world, ALONE)
    with world.service.event_feed.listen(None) as events:
        fake_host.set_driver(ALONE, "vfio-pci")
        assert take(events, 1) == ["bound"]
        fake_host.virsh_attach("vm-on", ALONE)
        assert take(events, 1) == ["attached"]
        fake_host.add_pci("0000:99:00.0", group=99)
        assert take(events, 1) == ["appeared"]
        fake_host.vanish("0000:99:00.0")
        assert take(events, 1) == ["vanished"]


def test_a_stream_resumes_after_the_last_event_that_was_seen(
    world: World, fake_host: FakeHost
) -> None:
    with world.service.event_feed.listen(None) as events:
        register(world, ALONE)
        first = next(event for event in events if event is not None)
    fake_host.set_driver(ALONE, "vfio-pci")
    with world.service.event_feed.listen(first.id) as events:
        assert take(events, 1) == ["bound"]
    with world.service.event_feed.listen("another-run-1") as events:
        assert next(events) is None


def test_there_are_only_so_many_listeners(world: World) -> None:
    event_feed = world.service.event_feed
    with (
        event_feed.listen(None),
        event_feed.listen(None),
        refusal("too_many_listeners"),
        event_feed.listen(None),
    ):
        pytest.fail("a third listener was let in")
    with event_feed.listen(None) as events:
        assert next(events) is None


def test_a_reader_that_falls_behind_is_dropped(world: World) -> None:
    with world.service.event_feed.listen(None) as events:
        for _ in range(300):
            register(world, ALONE)
            world.service.unregister(ALONE, OPERATOR)
        assert list(events) == []


def test_closing_ends_every_stream(world: World) -> None:
    with world.service.event_feed.listen(None) as events:
        world.service.event_feed.close()
        assert list(events) == []
