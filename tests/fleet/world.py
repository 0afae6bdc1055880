"""A hub on a real PostgreSQL, and agents: services on hosts in memory, over real HTTP."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.types import WSGIApplication

from pydantic import SecretStr
from sqlalchemy import ColumnElement, func

from hypeman_libvirt.devices.model import Event
from hypeman_libvirt.hub.agents import Connect
from hypeman_libvirt.hub.bootstrap import HubWorld, build_hub, build_hub_app
from hypeman_libvirt.hub.database import Database
from hypeman_libvirt.hub.service import Hub
from hypeman_libvirt.hub.settings import HubSettings
from hypeman_libvirt.rest.auth import BearerAuth
from hypeman_libvirt.rest.limits import Limits
from tests import fake_libvirt
from tests.api.client import SECRET, Api
from tests.conftest import seed_host
from tests.fake_host import FakeHost
from tests.server.running import running
from tests.world import World, world_on

if TYPE_CHECKING:
    from hypeman_libvirt.agent.enrolment import MembershipFile
    from hypeman_libvirt.agent.reporter import Reporter
    from hypeman_libvirt.agent.state import StateReader

HUB_SECRET = "the secret of the fleet's hubs, of more than sixty-four bytes, as HS512 wants it"


@dataclass
class Clock:
    """The database's clock, which a test sets forward."""

    ahead: timedelta = timedelta()

    def __call__(self) -> ColumnElement[datetime]:
        """Return now in SQL."""
        return func.clock_timestamp() + self.ahead

    def pass_time(self, seconds: float) -> None:
        """Let it go on."""
        self.ahead += timedelta(seconds=seconds)


@dataclass
class Fleet:
    """A hub that serves, and what a test turns."""

    hub: Hub
    app: WSGIApplication
    api: Api
    url: str
    clock: Clock
    directory: Path
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def invite(self, name: str, **more: object) -> str:
        """Return a one-time token."""
        answer = self.api.post("/hosts", {"name": name, **more})
        assert answer.status_code == 201, answer.text
        token: str = answer.json["token"]
        return token

    def names(self, query: str | None = None) -> list[str]:
        """Return the devices that the hub lists, as name@host."""
        listed = self.api.get("/devices", query=query).json
        return [f"{each['name']}@{each['host']}" for each in listed]


@dataclass
class Agent:
    """A service on a host in memory that belongs to the fleet, or wants to."""

    name: str
    host: FakeHost
    world: World
    url: str
    reporter: Reporter
    reader: StateReader
    api: Api
    epoch: str
    file: MembershipFile

    @property
    def key(self) -> str:
        """The agent's own key."""
        membership = self.file.read()
        assert membership is not None
        return membership.key

    @property
    def host_key(self) -> str:
        """What the hub knows the host by."""
        return self.world.host.key()

    def report(self) -> float:
        """Report once, as its thread would."""
        return self.reporter.report(self.reader)

    def events(self) -> AbstractContextManager[Iterator[Event | None]]:
        """Follow the events of the host itself."""
        return self.world.service.event_feed.listen(None)

    def register(self, address: str, name: str, **more: Any) -> None:  # noqa: ANN401
        """Register a device on the host itself."""
        body = {"pci_address": address, "name": name, **more}
        assert self.api.post("/devices", body).status_code == 201


@contextmanager
def fleet_on(
    url: str,
    directory: Path,
    connect: Connect | None = None,
    **settings: Any,  # noqa: ANN401
) -> Iterator[Fleet]:
    """Serve a hub on a database."""
    clock = Clock()
    numbers = count(1)
    given = HubSettings(
        database=url,
        jwt_secret=SecretStr(HUB_SECRET),
        **{"operation_timeout": 20.0, "event_listeners": 4, **settings},
    )
    world = HubWorld(
        database=Database(url, clock),
        connect=connect,
        chance=random.Random(1),  # noqa: S311
        new_id=lambda: f"claim{next(numbers):019d}",
        heartbeat=0.2,
    )
    with closing(build_hub(given, world)) as hub:
        hub.announcements.start()
        limits = Limits(reads=64, changes=64, followers=4)
        app = build_hub_app(given, world, hub, BearerAuth(SECRET), limits)
        with running(app, server="granian", threads=16) as server:
            yield Fleet(hub, app, Api(app), f"http://127.0.0.1:{server.port}", clock, directory)


@contextmanager
def agent_in(
    fleet: Fleet,
    name: str,
    *,
    host: FakeHost | None = None,
    token: str | None = None,
    enrol: bool = True,
) -> Iterator[Agent]:
    """Run a service on a host in memory; with ``enrol`` it is in the fleet and has reported.

    Its clock is years behind that of the hub.
    """
    from hypeman_libvirt import bootstrap  # noqa: PLC0415  # after the level was chosen
    from hypeman_libvirt.agent.enrolment import MembershipFile  # noqa: PLC0415
    from hypeman_libvirt.agent.hub_client import HubClient  # noqa: PLC0415
    from hypeman_libvirt.agent.reporter import AgentSettings, Reporter  # noqa: PLC0415
    from hypeman_libvirt.agent.state import StateReader  # noqa: PLC0415
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415
    from hypeman_libvirt.resources.reader import ResourceReader  # noqa: PLC0415

    directory = fleet.directory / f"{name}-{next(fleet.numbers)}"
    directory.mkdir()
    fake = host or seed_host()
    with ExitStack() as ended:
        fake_libvirt.serve(fake)
        ended.callback(fake_libvirt.forget, fake)
        opened = ended.enter_context(closing(open_host(fake.uri)))
        world = ended.enter_context(world_on(opened, directory))
        apps: list[WSGIApplication] = []
        server = ended.enter_context(
            running(lambda *asked: apps[0](*asked), server="waitress", threads=16)  # noqa: PLW0108 - it comes below
        )
        url = f"http://127.0.0.1:{server.port}"
        invited = token or (fleet.invite(name) if enrol else None)
        epoch = f"run {next(fleet.numbers)}"
        file = MembershipFile(directory)
        client = HubClient(fleet.url, None)
        ended.callback(client.close)
        reporter = Reporter(
            AgentSettings(hub=fleet.url, url=url, token=invited),
            client,
            file,
            opened.view.key,
            world.base.locks,
            epoch=epoch,
            chance=random.Random(2),  # noqa: S311
            clock=lambda: world.now.timestamp(),  # noqa: PLW0108 - it goes on
        )
        inside = replace(world.base, reporter=reporter)
        app = bootstrap.build_app(world.settings, inside, world.service, BearerAuth(SECRET))
        apps.append(app)
        resources = ResourceReader(opened.resources, opened.view, world.service.inventory)
        reader = StateReader(world.service.inventory, opened.view, resources)
        agent = Agent(name, fake, world, url, reporter, reader, Api(app), epoch, file)
        if enrol:
            agent.report()
        yield agent
