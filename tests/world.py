"""A whole service on a host of the tests' own: real rules, real registry, the clock in hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from hypeman_libvirt.devices.event_feed import EventFeed
from hypeman_libvirt.devices.inventory import Inventory
from hypeman_libvirt.devices.model import Caller, Change
from hypeman_libvirt.devices.passthrough import Passthrough
from hypeman_libvirt.devices.ports import Host
from hypeman_libvirt.devices.preflight import Preflighter
from hypeman_libvirt.devices.registration import DeviceService
from hypeman_libvirt.devices.snapshot import SnapshotReader
from hypeman_libvirt.devices.transaction import Transactions
from hypeman_libvirt.registry.sql import SqlRegistry

OPERATOR = Caller("operator")
"""On whose behalf tests act."""


@dataclass
class World:
    """A service and the handles that a test turns."""

    host: Host
    registry: SqlRegistry
    operations: Transactions
    service: DeviceService = field(init=False)
    now: datetime = datetime(2025, 1, 15, 10, tzinfo=UTC)
    changes: list[Change] = field(default_factory=list)
    seconds: float = 0.0

    def pass_time(self, seconds: float) -> None:
        """Let the clocks go on."""
        self.now += timedelta(seconds=seconds)
        self.seconds += seconds

    def record(self, change: Change) -> None:
        """Keep a change, and let listeners know, as the service does."""
        self.changes.append(change)
        self.service.event_feed.look()


@contextmanager
def world_on(host: Host, directory: Path, *, deadline: float = 10.0) -> Iterator[World]:
    """Run a service on a host, with its registry in the directory."""
    registry = SqlRegistry(directory / "registry.db")
    world = World(host, registry, Transactions(deadline=deadline, at_once=4))
    ids = (f"id{number:022d}" for number in count(1))
    inventory = Inventory(host, registry)
    survey = SnapshotReader(host, inventory)
    passthrough = Passthrough(
        host,
        registry,
        inventory,
        survey,
        world.operations,
        release_timeout=5.0,
        on_change=world.record,
        sleep=world.pass_time,
        monotonic=lambda: world.seconds,
    )
    event_feed = EventFeed(
        inventory,
        host,
        lambda: datetime.now(UTC),
        poll_interval=0.05,
        heartbeat=0.2,
        most_listeners=2,
    )
    world.service = DeviceService(
        host,
        registry,
        inventory,
        passthrough,
        Preflighter(inventory, survey),
        event_feed,
        clock=lambda: world.now,
        new_id=lambda: next(ids),
        on_change=world.record,
    )
    yield world
    event_feed.close()
    registry.close()
