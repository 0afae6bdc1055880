"""The composition root: the one place that knows every room."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import structlog
from cuid2 import Cuid

from hypeman_libvirt import __version__
from hypeman_libvirt.devices.event_feed import EventFeed
from hypeman_libvirt.devices.inventory import Inventory
from hypeman_libvirt.devices.model import Change, Device
from hypeman_libvirt.devices.passthrough import Passthrough
from hypeman_libvirt.devices.preflight import Preflighter
from hypeman_libvirt.devices.registration import DeviceService
from hypeman_libvirt.devices.snapshot import SnapshotReader
from hypeman_libvirt.devices.transaction import Transactions
from hypeman_libvirt.host.libvirt_host import LibvirtHost, open_host
from hypeman_libvirt.host.test_driver import demo_uri
from hypeman_libvirt.metrics import Metrics
from hypeman_libvirt.registry import SqlRegistry
from hypeman_libvirt.rest.auth import Auth, BearerAuth, NoAuth
from hypeman_libvirt.rest.routes import App, Route, add_routes, metrics_routes, own_app
from hypeman_libvirt.settings import Settings

_HEARTBEAT: Final = 15.0
"""Seconds; proxies close a stream that is silent for a minute."""

_log: Final = structlog.get_logger(__name__)


class HostedService(DeviceService):
    """The device service on a host and a registry, which it closes with itself.

    Attributes:
        metrics: What it and its host have done.
    """

    def __init__(
        self, host: LibvirtHost, registry: SqlRegistry, settings: Settings, metrics: Metrics
    ) -> None:
        """Put the use cases together; libvirt is not asked before it is needed."""
        inventory = Inventory(host, registry)
        shown = Inventory(host.shown, registry)
        survey = SnapshotReader(host, inventory)
        event_feed = EventFeed(
            shown,
            host.shown,
            _now,
            poll_interval=settings.event_poll_interval,
            heartbeat=_HEARTBEAT,
            most_listeners=settings.event_listeners,
        )

        def on_change(change: Change) -> None:
            _log_change(change)
            event_feed.look()

        passthrough = Passthrough(
            host,
            registry,
            inventory,
            survey,
            Transactions(deadline=settings.operation_timeout, at_once=settings.operations),
            release_timeout=settings.release_timeout,
            on_change=on_change,
        )
        super().__init__(
            host,
            registry,
            shown,
            passthrough,
            Preflighter(inventory, survey),
            event_feed,
            clock=_now,
            new_id=Cuid(length=24).generate,
            on_change=on_change,
        )
        self.metrics = metrics
        metrics.watch(self, host.count_losses)
        self._closing = (event_feed, host, registry)

    def close(self) -> None:
        """End every stream of events and close the connections to libvirt and the registry."""
        for each in self._closing:
            each.close()


def create_service(settings: Settings) -> HostedService:
    """Open registry and host; the service starts even while libvirt is down.

    Raises:
        RegistryOpenError: The registry cannot be used.
    """
    metrics = Metrics(__version__)
    registry = SqlRegistry(settings.registry_location)
    try:
        host = open_host(settings.uri or demo_uri(), metrics.observe_call)
        return HostedService(host, registry, settings, metrics)
    except BaseException:
        registry.close()
        raise


def create_app(settings: Settings) -> App:
    """Return the WSGI app; what it opens is closed when the process ends.

    Raises:
        SettingsError: There is no secret, and auth is not off.
        RegistryOpenError: The registry cannot be used.
    """
    auth = create_auth(settings)
    service = create_service(settings)
    atexit.register(service.close)
    return serve_alone(service, auth, settings)


def serve_alone(service: HostedService, auth: Auth, settings: Settings) -> App:
    """Return the app of a service that is the only one in its process."""
    metrics: Sequence[Route] = ()
    if settings.metrics != "off":
        ask = settings.metrics == "token"
        metrics = metrics_routes(service.metrics.render, ask_for_token=ask)
    return own_app(service, auth, metrics=metrics)


def init_app(
    app: App,
    service: DeviceService,
    prefix: str = "",
    *,
    auth: Auth | None = None,
) -> None:
    """Mount the routes into a Falcon app that someone else owns.

    Args:
        app: The owner's; its own routes, middleware and error handlers stay as they are.
        service: What answers; see create_service.
        prefix: Path before ours, such as ``/api/v1``.
        auth: Who may call; see create_auth. NoAuth leaves that to the owner's middleware. None
            asks for bearer tokens that are signed with the secret of the environment.

    Raises:
        SettingsError: Neither auth nor a secret.
    """
    add_routes(app, service, auth or create_auth(Settings()), prefix)


def create_auth(settings: Settings) -> Auth:
    """Return what checks tokens.

    Raises:
        SettingsError: There is no secret, and auth is not off.
    """
    return NoAuth() if settings.auth == "off" else BearerAuth(settings.secret())


def _now() -> datetime:
    return datetime.now(UTC)


def _log_change(change: Change) -> None:
    """Write who changed what, from which state to which."""
    device = change.after or change.before
    if device is None:
        return
    _log.info(
        change.action,
        subject=change.caller.subject,
        forced=change.forced,
        device_id=device.registration.id,
        name=device.registration.name,
        pci_address=str(device.registration.pci_address),
        before=_state(change.before),
        after=_state(change.after),
    )


def _state(device: Device | None) -> dict[str, str | None] | None:
    """Return what changes can change; None of a device that is not registered."""
    if device is None:
        return None
    return {
        "driver": device.node.driver if device.node else None,
        "attached_to": device.assignment.domain.instance if device.assignment else None,
    }
