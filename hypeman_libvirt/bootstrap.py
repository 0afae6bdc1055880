"""The composition root: the one place that knows every package."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4
from wsgiref.types import WSGIApplication

import structlog
from cuid2 import Cuid

from hypeman_libvirt import __version__
from hypeman_libvirt.agent.enrolment import MembershipFile
from hypeman_libvirt.agent.hub_client import HubClient
from hypeman_libvirt.agent.reporter import AgentSettings, Reporter
from hypeman_libvirt.agent.state import StateReader
from hypeman_libvirt.devices.address import MdevUuid
from hypeman_libvirt.devices.adoption import Adoption
from hypeman_libvirt.devices.attachment import Attachment
from hypeman_libvirt.devices.binding import Binding, Drivers
from hypeman_libvirt.devices.cleaning import Cleaner
from hypeman_libvirt.devices.clearing import Clearing
from hypeman_libvirt.devices.context import ChangeContext
from hypeman_libvirt.devices.definitions import Definitions
from hypeman_libvirt.devices.event_feed import EventFeed
from hypeman_libvirt.devices.following import Follower
from hypeman_libvirt.devices.history import History
from hypeman_libvirt.devices.inventory import Inventory
from hypeman_libvirt.devices.labels import Labels
from hypeman_libvirt.devices.model import Change, Device
from hypeman_libvirt.devices.moving import Moving
from hypeman_libvirt.devices.new_registration import RegistrationFactory
from hypeman_libvirt.devices.node_device import Framework
from hypeman_libvirt.devices.nonblocking import NonBlocking
from hypeman_libvirt.devices.persistence import Persistence
from hypeman_libvirt.devices.ports import (
    Clock,
    Host,
    HostView,
    Locks,
    NewId,
    OnChange,
    Registry,
    RootHelper,
)
from hypeman_libvirt.devices.preflight import Preflighter
from hypeman_libvirt.devices.quarantine import Quarantiner
from hypeman_libvirt.devices.reconciliation import Reconciler
from hypeman_libvirt.devices.references import References
from hypeman_libvirt.devices.registration import Registrations
from hypeman_libvirt.devices.service import DeviceService
from hypeman_libvirt.devices.slice_makers import MdevMaker, NewUuid, SliceMaker, VendorMaker
from hypeman_libvirt.devices.slices import Slices
from hypeman_libvirt.devices.snapshot import SnapshotReader
from hypeman_libvirt.devices.topology import TopologyReader
from hypeman_libvirt.devices.transaction import Transactions
from hypeman_libvirt.devices.virtual_functions import VirtualFunctionControl
from hypeman_libvirt.helper.client import Ask, HelperClient, ask_over, refuse
from hypeman_libvirt.host.libvirt_host import open_host
from hypeman_libvirt.host.test_driver import demo_uri
from hypeman_libvirt.host.usage.local_host import is_local
from hypeman_libvirt.hub.tokens import HubAuth
from hypeman_libvirt.metrics import Metrics, is_success, operation_of
from hypeman_libvirt.registry import SqlRegistry
from hypeman_libvirt.registry.locks import FileLocks, lock_directory
from hypeman_libvirt.resources.ports import ResourceHost
from hypeman_libvirt.resources.reader import ResourceReader
from hypeman_libvirt.rest.access_log import AccessLog, WriteLine
from hypeman_libvirt.rest.auth import Auth, BearerAuth, NoAuth
from hypeman_libvirt.rest.limits import SPARE_THREADS, Limits
from hypeman_libvirt.rest.page import Page
from hypeman_libvirt.rest.protected_route import Guard, authorization
from hypeman_libvirt.rest.routes import (
    App,
    Route,
    add_routes,
    host_routes,
    metrics_routes,
    own_app,
    page_routes,
    session_routes,
)
from hypeman_libvirt.rest.session import authorization_or_cookie
from hypeman_libvirt.settings import Settings
from hypeman_libvirt.tls import tls_context

_log: Final = structlog.get_logger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


def _no_helper() -> RootHelper:
    return HelperClient(refuse("this host has no root helper"))


def _new_uuid() -> MdevUuid:
    return MdevUuid(str(uuid4()))


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
        mdev_uuid=device.registration.mdev and str(device.registration.mdev),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a service is built on. Tests replace any of it.

    Attributes:
        host: Decides over changes.
        view: The same host for reads that decide over no change; may be a cache.
        resources: The same host as a whole.
        registry: Stores registrations.
        clock: Now, in UTC.
        locks: Exclude operations on the same device, also those of other processes.
        helper: Makes the changes that only root can make.
        new_id: Makes a CUID2.
        new_uuid: Makes a UUID for a mediated device.
        on_change: Is called with every change that was made.
        heartbeat: Seconds after which a follower of events gets a sign of life; proxies close a
            stream that is silent for a minute.
        last_operations: Seconds that operations under way have when the service is closed, those
            that have answered ``timeout`` included.
        patience: Seconds that libvirt has to list devices that were made.
        metrics: Counts what the service and its host do.
        count_losses: Connections to libvirt that were lost so far.
        announced: Whether libvirt announces changes, by what changes.
        nonblocking: Marks threads that must not wait; host and registry know them. None where they
            do not: then no thread may be taken for such a one.
        reporter: Reports to the hub of a fleet; None where this host belongs to none.
        close: Closes what was opened for it.
    """

    host: Host
    view: HostView
    resources: ResourceHost
    registry: Registry
    locks: Locks
    helper: RootHelper = field(default_factory=_no_helper)
    clock: Clock = _now
    new_id: NewId = Cuid(length=24).generate
    new_uuid: NewUuid = _new_uuid
    on_change: OnChange = _log_change
    heartbeat: float = 15.0
    last_operations: float = 30.0
    patience: float = 10.0
    metrics: Metrics = field(default_factory=lambda: Metrics(__version__))
    count_losses: Callable[[], int] = lambda: 0
    announced: Callable[[], Mapping[str, bool]] = dict
    nonblocking: NonBlocking | None = None
    reporter: Reporter | None = None
    close: Callable[[], None] = lambda: None


def open_world(settings: Settings) -> World:
    """Open registry and host; libvirt may be down, it is not asked before it is needed.

    Raises:
        RegistryOpenError: The registry cannot be used.
    """
    metrics, nonblocking = Metrics(__version__), NonBlocking()
    before_waiting = nonblocking.before_waiting
    with ExitStack() as opened:
        registry = SqlRegistry(settings.registry_location, before_waiting=before_waiting)
        opened.callback(registry.close)
        uri = settings.uri or demo_uri()
        host = open_host(uri, metrics.observe_call, before_waiting=before_waiting)
        opened.callback(host.close)
        locks = FileLocks(lock_directory(settings.registry_location, settings.state_directory, uri))
        return World(
            host=host,
            view=host.view,
            resources=host.resources,
            registry=registry,
            locks=locks,
            helper=host.helper or HelperClient(_ask_helper(uri, settings)),
            metrics=metrics,
            count_losses=host.count_losses,
            announced=host.announced,
            nonblocking=nonblocking,
            reporter=create_reporter(settings, host.view, locks),
            close=opened.pop_all().close,
        )


def _ask_helper(uri: str, settings: Settings) -> Ask:
    """Return what asks the root helper, which is on the libvirt host alone."""
    if is_local(uri):
        return ask_over(settings.helper_socket)
    return refuse(f"only the libvirt host itself can do that, and {uri} is another one")


def create_reporter(settings: Settings, view: HostView, locks: Locks) -> Reporter | None:
    """Return what reports to the hub of the settings; None without a hub.

    Raises:
        SettingsError: The file with the hub's authority cannot be used.
    """
    if settings.hub is None or settings.agent_url is None:
        return None
    token = settings.hub_token.get_secret_value() if settings.hub_token else None
    return Reporter(
        AgentSettings(hub=settings.hub, url=settings.agent_url, token=token),
        HubClient(settings.hub, tls_context(settings.hub_ca)),
        MembershipFile(settings.state_directory),
        view.key,
        locks,
    )


def build_service(settings: Settings, world: World) -> DeviceService:
    """Put the use cases together; the world is closed with the service."""
    inventory, reporter = Inventory(world.view, world.registry), world.reporter
    event_feed = EventFeed(
        inventory,
        world.view,
        world.clock,
        poll_interval=settings.event_poll_interval,
        heartbeat=world.heartbeat,
        most_listeners=settings.event_listeners + (reporter is not None),
    )

    history = History(world.clock)

    def on_change(change: Change) -> None:
        world.on_change(change)
        history.add(change)
        event_feed.refresh()
        if change.action == "move":
            follower.wake()  # its boot rule goes with it
        if reporter is not None:
            reporter.wake()

    def start() -> None:
        follower.start()
        if reporter is not None:
            world.view.subscribe(reporter.wake)
            resources = ResourceReader(world.resources, world.view, inventory)
            reporter.start(StateReader(inventory, world.view, resources), event_feed)

    def close() -> None:
        if reporter is not None:
            reporter.close()
        follower.close()
        cleaner.close()
        event_feed.close()
        if not transactions.drain(world.last_operations):
            _log.warning("stopped while libvirt held an operation; the device may be in between")
        world.close()

    transactions = Transactions(
        world.host.changes,
        world.locks,
        deadline=settings.operation_timeout,
        at_once=settings.operations,
    )
    quarantiner = Quarantiner(world.host, world.registry, world.clock, event_feed.refresh)
    context = ChangeContext(
        host=world.host,
        registry=world.registry,
        references=References(world.host, world.registry),
        snapshots=SnapshotReader(world.host, world.registry),
        transactions=transactions,
        quarantiner=quarantiner,
        on_change=on_change,
        persistence=Persistence(world.host, world.registry, world.helper),
    )
    definitions = Definitions(world.host)
    drivers = Drivers(world.host, world.registry, quarantiner)
    binding = Binding(context, drivers)
    factory = RegistrationFactory(world.host, world.clock, world.new_id)
    makers: dict[Framework, SliceMaker] = {
        "mdev": MdevMaker(world.host, world.new_uuid),
        "vendor": VendorMaker(world.host, world.helper),
    }
    slices = Slices(context, factory, makers)
    cleaner = Cleaner(context, world.helper, event_feed.refresh)
    virtual_functions = VirtualFunctionControl(context, world.helper, patience=world.patience)
    reconciler = Reconciler(
        world.host, world.registry, world.helper, binding, virtual_functions, world.count_losses
    )

    def afterwards() -> None:
        """Restore what a boot has taken: functions first, since vGPUs are made on them."""
        cleaner.wake()
        reconciler.reconcile()
        slices.restore()

    follower = Follower(
        world.host,
        world.registry,
        Adoption(world.host, world.registry, event_feed.expect_adopted),
        quarantiner,
        definitions,
        transactions,
        world.view.subscribe,
        on_follow=event_feed.refresh,
        afterwards=afterwards,
    )
    service = DeviceService(
        inventory=inventory,
        registrations=Registrations(context, binding, factory, slices),
        slices=slices,
        labels=Labels(context),
        moving=Moving(context, definitions),
        clearing=Clearing(context),
        cleaner=cleaner,
        binding=binding,
        attachment=Attachment(context, drivers, release_timeout=settings.release_timeout),
        virtual_functions=virtual_functions,
        reconciler=reconciler,
        preflight=Preflighter(context.references, context.snapshots),
        event_feed=event_feed,
        topology=TopologyReader(world.view, inventory),
        history=history,
        transactions=transactions,
        needs=[world.host, world.registry],
        follower=follower,
        on_start=start,
        on_close=close,
    )
    world.metrics.watch(service, world.count_losses, world.announced)
    return service


def create_service(settings: Settings) -> DeviceService:
    """Open registry and host, and build the service on them; its ``close`` closes them.

    Raises:
        RegistryOpenError: The registry cannot be used.
    """
    return build_service(settings, open_world(settings))


def create_app(settings: Settings) -> WSGIApplication:
    """Return the WSGI app, with its access log and metrics, for any server.

    The server needs as many threads as ``count_threads`` says. What the app opens is closed when
    the process ends; a server that forks must call this after the fork.

    Raises:
        SettingsError: There is no secret, and auth is not off.
        RegistryOpenError: The registry cannot be used.
    """
    auth = create_auth(settings)
    world = open_world(settings)
    service = build_service(settings, world)
    atexit.register(service.close)
    service.start_following()
    return build_app(settings, world, service, auth)


def build_app(
    settings: Settings,
    world: World,
    service: DeviceService,
    auth: Auth,
    write_line: WriteLine | None = None,
) -> AccessLog:
    """Return the app of a service that is the only one in its process, with its access log.

    Args:
        settings: What it is to be.
        world: What the service is built on.
        service: Who does the work.
        auth: Who knows the callers.
        write_line: Writes the access log; None for the log as structlog is configured.
    """
    reports = ResourceReader(world.resources, world.view, service.inventory)
    reporter = world.reporter
    if reporter is not None:
        auth = HubAuth(
            auth,
            reporter.read_secret,
            world.view.key,
            lambda: world.clock().timestamp(),
        )
    routes = [*host_routes(reports)]
    if settings.metrics != "off":
        ask = settings.metrics == "token"
        routes += metrics_routes(world.metrics.render, ask_for_token=ask)
    page: Sequence[Route] = ()
    if settings.ui == "on":
        routes += session_routes(settings.dashboard)
        page = page_routes(Page())
    credentials = authorization if settings.ui == "off" else authorization_or_cookie
    limits = create_limits(settings, world.nonblocking)
    app = own_app(service, auth, limits, more=routes, page=page, credentials=credentials)

    def observe(method: str, route: str | None, status: int, seconds: float) -> None:
        world.metrics.observe_request(method, route, status, seconds)
        operation = operation_of(route)
        if operation is not None:
            service.history.count(operation, succeeded=is_success(status))

    return AccessLog(app, observe, write_line=write_line)


def init_app(
    app: App,
    service: DeviceService,
    prefix: str = "",
    *,
    auth: Auth | None = None,
    settings: Settings | None = None,
) -> None:
    """Mount the routes into a Falcon app of another owner.

    Args:
        app: The owner's; its own routes, middleware and error handlers stay as they are.
        service: What answers; see create_service.
        prefix: Path before ours, such as ``/api/v1``.
        auth: Who may call; see create_auth. NoAuth leaves that to the owner's middleware. None
            asks for bearer tokens that are signed with the secret of the settings.
        settings: The limits, and the secret; None for those of the environment.

    Raises:
        SettingsError: Neither auth nor a secret.
    """
    settings = settings or Settings()
    guard = Guard(auth or create_auth(settings), create_limits(settings))
    add_routes(app, service, guard, prefix)


def create_limits(settings: Settings, nonblocking: NonBlocking | None = None) -> Limits:
    """Return how many requests may wait at once.

    Args:
        settings: The limits.
        nonblocking: Marks the threads in which none may.
    """
    return Limits(
        reads=settings.threads,
        changes=settings.operations,
        followers=settings.event_listeners,
        before_waiting=(nonblocking or NonBlocking()).before_waiting,
    )


def count_threads(settings: Settings) -> int:
    """Return how many threads a server needs for as many requests as may wait, and all others."""
    waiting = settings.operations + settings.event_listeners
    return settings.threads + waiting + SPARE_THREADS


def create_auth(settings: Settings) -> Auth:
    """Return what checks tokens.

    Raises:
        SettingsError: There is no secret, and auth is not off.
    """
    if settings.auth == "off":
        return NoAuth()
    return BearerAuth(settings.secret(), require_expiry=settings.require_expiry)
