"""The hub's composition root; it needs no libvirt."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from wsgiref.types import WSGIApplication

from cuid2 import Cuid

from hypeman_libvirt.devices.ports import NewId
from hypeman_libvirt.hub.agents import Agents, Connect
from hypeman_libvirt.hub.claim_store import ClaimStore
from hypeman_libvirt.hub.claiming import Claiming
from hypeman_libvirt.hub.database import Database
from hypeman_libvirt.hub.followers import Announcements, FleetFeed
from hypeman_libvirt.hub.forwarding import Forwarder
from hypeman_libvirt.hub.hosts import Hosts
from hypeman_libvirt.hub.housekeeping import Housekeeping
from hypeman_libvirt.hub.listing import Listing
from hypeman_libvirt.hub.metrics import FleetCollector
from hypeman_libvirt.hub.reports import Reports
from hypeman_libvirt.hub.rest.routes import agent_routes, hub_routes
from hypeman_libvirt.hub.service import Hub
from hypeman_libvirt.hub.settings import HubSettings
from hypeman_libvirt.hub.tokens import TokenMaker
from hypeman_libvirt.metrics import Metrics
from hypeman_libvirt.rest.access_log import AccessLog
from hypeman_libvirt.rest.auth import Auth
from hypeman_libvirt.rest.limits import Limits
from hypeman_libvirt.rest.page import Page
from hypeman_libvirt.rest.protected_route import authorization
from hypeman_libvirt.rest.routes import app_of, metrics_routes, page_routes, session_routes
from hypeman_libvirt.rest.session import authorization_or_cookie
from hypeman_libvirt.version import __version__

_HEARTBEAT: Final = 15.0
"""Seconds; proxies close a stream that is silent for a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubWorld:
    """What a hub is built on. Tests replace any of it.

    Attributes:
        database: All the state.
        connect: Opens connections to agents; None for those of the settings.
        clock: Seconds since 1970, for the ends of streams.
        sleep: Waits so many seconds.
        monotonic: Seconds that never go back.
        chance: Spreads claimers.
        new_id: Makes ids of claims.
        heartbeat: Seconds after which a follower of events gets a sign of life.
        metrics: Counts what the hub does.
    """

    database: Database
    connect: Connect | None = None
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic
    chance: random.Random = field(default_factory=random.Random)
    new_id: NewId = Cuid(length=24).generate
    heartbeat: float = _HEARTBEAT
    metrics: Metrics = field(default_factory=lambda: Metrics(__version__))


def open_hub_world(settings: HubSettings) -> HubWorld:
    """Open the database.

    Raises:
        RegistryOpenError: It cannot be used.
    """
    return HubWorld(database=Database(settings.database))


def build_hub(settings: HubSettings, world: HubWorld) -> Hub:
    """Put the use cases together; the database is closed with the hub.

    Raises:
        SettingsError: There is no secret, or a certificate cannot be used.
    """
    database = world.database
    tokens = TokenMaker(settings.secret())
    agents = Agents(tokens, settings.tls(), settings.operation_timeout, world.connect)
    hosts, listing, reports = Hosts(database), Listing(database), Reports(database)
    claims = ClaimStore(database, world.new_id)
    claiming = Claiming(
        claims,
        hosts,
        agents,
        sleep=world.sleep,
        monotonic=world.monotonic,
        chance=world.chance,
    )
    announcements = Announcements(database, world.sleep)
    hub = Hub(
        database=database,
        listing=listing,
        hosts=hosts,
        reports=reports,
        forwarder=Forwarder(listing, hosts, agents, reports),
        claims=claims,
        claiming=claiming,
        feed=FleetFeed(
            listing,
            announcements,
            world.clock,
            heartbeat=world.heartbeat,
            most_listeners=settings.event_listeners,
        ),
        tokens=tokens,
        announcements=announcements,
        housekeeping=Housekeeping(database, claiming),
        close_all=database.close,
    )
    world.metrics.add(FleetCollector(database, hosts))
    return hub


def build_hub_app(
    settings: HubSettings, world: HubWorld, hub: Hub, auth: Auth, limits: Limits
) -> WSGIApplication:
    """Return the app of a hub, with its access log."""
    routes = [*hub_routes(hub)]
    if settings.metrics != "off":
        ask = settings.metrics == "token"
        routes += metrics_routes(world.metrics.render, ask_for_token=ask)
    without_token = [*agent_routes(hub)]
    if settings.ui == "on":
        routes += session_routes(settings.dashboard)
        without_token += page_routes(Page())
    credentials = authorization if settings.ui == "off" else authorization_or_cookie
    app = app_of(routes, without_token, hub, auth, limits, credentials)
    return AccessLog(app, world.metrics.observe_request)
