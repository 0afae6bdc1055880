"""The service that the package builds, in a world of the tests' own: the clock in hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from hypeman_libvirt.devices.model import Caller, Change
from hypeman_libvirt.devices.ports import RootHelper
from hypeman_libvirt.devices.service import DeviceService
from hypeman_libvirt.helper.client import HelperClient, refuse
from hypeman_libvirt.metrics import Metrics
from hypeman_libvirt.registry import SqlRegistry
from hypeman_libvirt.registry.locks import FileLocks
from hypeman_libvirt.settings import Settings
from tests.api.client import SECRET

if TYPE_CHECKING:
    from hypeman_libvirt import bootstrap
    from hypeman_libvirt.host.libvirt_host import LibvirtHost

OPERATOR = Caller("operator")
"""On whose behalf tests act."""


@dataclass
class World:
    """A service and the handles that a test turns."""

    host: LibvirtHost
    registry: SqlRegistry
    settings: Settings
    base: bootstrap.World = field(init=False)
    service: DeviceService = field(init=False)
    metrics: Metrics = field(default_factory=lambda: Metrics("0.0.0"))
    now: datetime = datetime(2025, 1, 15, 10, tzinfo=UTC)
    changes: list[Change] = field(default_factory=list)
    losses: int = 0

    def pass_time(self, seconds: float) -> None:
        """Let the clock go on."""
        self.now += timedelta(seconds=seconds)


@contextmanager
def world_on(
    host: LibvirtHost,
    directory: Path,
    *,
    deadline: float = 10.0,
    helper: RootHelper | None = None,
) -> Iterator[World]:
    """Run a service on a host, its registry in the directory; with a helper if one is given."""
    from hypeman_libvirt import bootstrap  # noqa: PLC0415  # after the level was chosen

    settings = Settings(
        jwt_secret=SecretStr(SECRET),
        operation_timeout=deadline,
        operations=4,
        release_timeout=0.2,
        event_poll_interval=0.05,
        event_listeners=2,
    )
    registry = SqlRegistry(directory / "registry.db")
    world = World(host, registry, settings)
    ids = (f"id{number:022d}" for number in count(1))
    world.base = bootstrap.World(
        host=host,
        view=host.view,
        resources=host.resources,
        registry=registry,
        clock=lambda: world.now,
        locks=FileLocks(directory / "locks"),
        helper=helper or HelperClient(refuse("there is no root helper")),
        new_id=lambda: next(ids),
        on_change=world.changes.append,
        heartbeat=0.2,
        last_operations=300.0,
        patience=0.2,
        metrics=world.metrics,
        count_losses=lambda: world.losses,
        announced=host.announced,
        close=registry.close,
    )
    world.service = bootstrap.build_service(settings, world.base)
    with closing(world.service):
        yield world
