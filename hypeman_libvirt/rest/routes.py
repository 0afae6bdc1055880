"""Which path has which responders, and which permission opens them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import falcon

from hypeman_libvirt.devices.errors import NotFoundError
from hypeman_libvirt.devices.service import Answering, DeviceService
from hypeman_libvirt.resources.reader import ResourceReader
from hypeman_libvirt.rest.about import Health, Spec
from hypeman_libvirt.rest.auth import IDENTIFIED, Access, Auth, NoAuth
from hypeman_libvirt.rest.devices import Devices, OneDevice
from hypeman_libvirt.rest.errors import answer
from hypeman_libvirt.rest.events import Events
from hypeman_libvirt.rest.fleet import FLEET_PATHS, NoFleet
from hypeman_libvirt.rest.iommu_groups import IommuGroups
from hypeman_libvirt.rest.limits import Limits, Waits
from hypeman_libvirt.rest.metrics import Scrape
from hypeman_libvirt.rest.page import Page
from hypeman_libvirt.rest.protected_route import (
    Credentials,
    Guard,
    ProtectedRoute,
    authorization,
    name_request,
)
from hypeman_libvirt.rest.requests import MAX_BODY
from hypeman_libvirt.rest.resources import HostReports
from hypeman_libvirt.rest.session import PageSession
from hypeman_libvirt.rest.topology import HostPicture

App: TypeAlias = "falcon.App[falcon.Request, falcon.Response]"
DEVICE: Final = "/devices/{reference}"
_HYPEMANS: Final = frozenset(
    {"builders", "builds", "images", "ingresses", "instances", "pushes", "snapshots", "volumes"}
)
"""First parts of the paths that hypeman has and this service has not.

Source: hypeman's OpenAPI document, as of its SDKs 0.28.
"""
_DEVICE_API_ALONE: Final = (
    "this service is hypeman's device API alone; instances here are libvirt's domains"
)
_ATTACH: Final = (
    "hypeman-libvirt devices attach NAME DOMAIN gives a registered device to one of them"
)


NEVER_WAIT: Final = frozenset({"/health", "/spec.yaml", "/spec.json"})
"""Paths whose answers wait for nothing: a server need not queue them behind others."""


@dataclass(frozen=True, slots=True)
class Route:
    """One path.

    Attributes:
        path: Falcon's URI template.
        resource: Who answers.
        permissions: What each method asks of a token; None where none is needed. Others answer 405.
        suffix: Falcon's, of the responders' names.
        waits: What its GET may wait for; other methods are changes. None if nothing waits.
    """

    path: str
    resource: object
    permissions: Mapping[str, Access | None]
    suffix: str | None = None
    waits: Waits | None = "read"


def device_routes(service: DeviceService, max_body: int = MAX_BODY) -> Sequence[Route]:
    """List the device API, all of it below ``/devices`` and ``/iommu-groups``."""
    devices, device = Devices(service, max_body), OneDevice(service, max_body)
    groups, picture = IommuGroups(service.inventory), HostPicture(service)
    return (
        Route("/devices", devices, {"GET": "device:read", "POST": "device:write"}),
        Route("/devices/available", devices, {"GET": "device:read"}, "available"),
        Route(
            "/devices/events", Events(service.event_feed), {"GET": "device:read"}, waits="follow"
        ),
        Route("/devices/history", picture, {"GET": "device:read"}, "history"),
        Route("/devices/preflight", devices, {"GET": "device:read"}, "preflight"),
        Route("/devices/topology", picture, {"GET": "device:read"}, "topology"),
        Route("/devices/vgpu-profiles", devices, {"GET": "device:read"}, "profiles"),
        Route(
            DEVICE,
            device,
            {"GET": "device:read", "PATCH": "device:write", "DELETE": "device:delete"},
        ),
        Route(f"{DEVICE}/move", device, {"POST": "device:write"}, "move"),
        Route(f"{DEVICE}/clear", device, {"POST": "device:write"}, "clear"),
        Route(f"{DEVICE}/bind", device, {"POST": "device:write"}, "bind"),
        Route(f"{DEVICE}/unbind", device, {"POST": "device:write"}, "unbind"),
        Route(f"{DEVICE}/attach", device, {"POST": "device:write"}, "attach"),
        Route(f"{DEVICE}/detach", device, {"POST": "device:write"}, "detach"),
        Route(f"{DEVICE}/preflight", device, {"GET": "device:read"}, "preflight"),
        Route(f"{DEVICE}/hostdev.xml", device, {"GET": "device:read"}, "hostdev"),
        *_fleet_routes("/devices"),
        Route(
            f"{DEVICE}/virtual-functions",
            device,
            {"GET": "device:read", "PUT": "device:write"},
            "virtual_functions",
        ),
        Route("/iommu-groups", groups, {"GET": "device:read"}),
        Route("/iommu-groups/{number}", groups, {"GET": "device:read"}, "one"),
    )


def about_routes(service: Answering) -> Sequence[Route]:
    """List what the service says about itself, without a token."""
    health, spec = Health(service), Spec()
    return (
        Route("/health", health, {"GET": None}, waits=None),
        Route("/ready", health, {"GET": None}, "ready"),
        Route("/spec.yaml", spec, {"GET": None}, "yaml", waits=None),
        Route("/spec.json", spec, {"GET": None}, "json", waits=None),
    )


def host_routes(resources: ResourceReader) -> Sequence[Route]:
    """List hypeman's paths about the host as a whole; a control plane has its own."""
    reports = HostReports(resources)
    return (
        Route("/resources", reports, {"GET": "resource:read"}, "resources"),
        Route("/capabilities", reports, {"GET": IDENTIFIED}, "capabilities"),
        *_fleet_routes("/hosts"),
    )


def metrics_routes(render: Callable[[], bytes], *, ask_for_token: bool = True) -> Sequence[Route]:
    """List the path that Prometheus scrapes.

    Args:
        render: Writes the metrics down.
        ask_for_token: Whether it needs one, with ``resource:read``.
    """
    permission: Access | None = "resource:read" if ask_for_token else None
    return (Route("/metrics", Scrape(render), {"GET": permission}),)


def session_routes(dashboard: str | None) -> Sequence[Route]:
    """List the path at which the page signs in and out.

    Args:
        dashboard: URL of a Grafana dashboard; None without one.
    """
    methods: dict[str, Access | None] = dict.fromkeys(("GET", "POST", "DELETE"), IDENTIFIED)
    return (Route("/ui/session", PageSession(dashboard), methods, waits=None),)


def page_routes(page: Page) -> Sequence[Route]:
    """List the paths of the page's files, which need no token: nothing of the host is in them."""
    return (
        Route("/ui", page, {"GET": None}, "bare", waits=None),
        Route("/ui/", page, {"GET": None}, waits=None),
        Route("/ui/{name:path}", page, {"GET": None}, waits=None),
    )


def add_routes(
    app: App,
    service: DeviceService,
    guard: Guard,
    prefix: str = "",
    max_body: int = MAX_BODY,
) -> None:
    """Mount the device API into any Falcon app; nothing but its own paths changes there.

    Args:
        app: Of any owner.
        service: Who does the work.
        guard: Who knows the callers, and how many may wait.
        prefix: Such as ``/v1``; none ends in a slash.
        max_body: Bytes of a request's body.
    """
    _mount(app, device_routes(service, max_body), guard, prefix)


def own_app(
    service: DeviceService,
    auth: Auth,
    limits: Limits,
    max_body: int = MAX_BODY,
    more: Sequence[Route] = (),
    page: Sequence[Route] = (),
    credentials: Credentials = authorization,
) -> App:
    """Build an app that is the device API alone, unknown paths and methods included.

    Args:
        service: Who does the work.
        auth: Who knows the callers.
        limits: How many requests may wait.
        max_body: Bytes of a request's body.
        more: Routes beside the device API, such as those of the host as a whole.
        page: Routes of the page's files, which need no token.
        credentials: Where tokens are looked for.
    """
    routes = [*device_routes(service, max_body), *more]
    return app_of(routes, page, service, auth, limits, credentials)


def app_of(
    routes: Sequence[Route],
    without_token: Sequence[Route],
    service: Answering,
    auth: Auth,
    limits: Limits,
    credentials: Credentials = authorization,
) -> App:
    """Build an app of these routes and of what every service says about itself.

    Args:
        routes: Opened by tokens.
        without_token: Opened otherwise, or to everybody.
        service: What ``/ready`` asks.
        auth: Who knows the callers.
        limits: How many requests may wait.
        credentials: Where tokens are looked for.
    """
    app = falcon.App()
    guard = Guard(auth, limits, credentials)
    _mount(app, routes, guard, "")
    _mount(app, [*about_routes(service), *without_token], Guard(NoAuth(), limits), "")
    app.add_error_handler(Exception, _answer_elsewhere)
    app.add_error_handler(falcon.HTTPError, _answer_elsewhere)
    return app


def _fleet_routes(below: str) -> Sequence[Route]:
    """List what a hub answers; this is one host, and says so."""
    return [
        Route(path, NoFleet(), permissions)
        for path, permissions in FLEET_PATHS.items()
        if path.startswith(below)
    ]


def _mount(app: App, routes: Sequence[Route], guard: Guard, prefix: str) -> None:
    for route in routes:
        path = ProtectedRoute(guard, route.resource, route.permissions, route.waits, route.suffix)
        app.add_route(prefix + route.path, path)


def _answer_elsewhere(
    req: falcon.Request, resp: falcon.Response, error: Exception, _params: object
) -> None:
    """Answer for a path or a method that does not exist."""
    name_request(req, resp)
    if isinstance(error, falcon.HTTPNotFound) and req.path.split("/")[1] in _HYPEMANS:
        answer(req, resp, NotFoundError(_DEVICE_API_ALONE, hint=_ATTACH))
    else:
        answer(req, resp, error)
