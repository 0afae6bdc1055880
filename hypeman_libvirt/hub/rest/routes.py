"""Which paths a hub has; those of the device API are the same as on one host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypeman_libvirt.hub.protocol import ENROL_PATH, REPORT_PATH
from hypeman_libvirt.hub.rest.agents import AgentMessages
from hypeman_libvirt.hub.rest.claims import Claims
from hypeman_libvirt.hub.rest.devices import FleetDevices, OfOneHost, OneFleetDevice
from hypeman_libvirt.hub.rest.events import FleetEvents
from hypeman_libvirt.hub.rest.hosts import FleetHosts, FleetReports, OneFleetHost
from hypeman_libvirt.hub.service import Hub
from hypeman_libvirt.rest.auth import IDENTIFIED
from hypeman_libvirt.rest.fleet import FLEET_PATHS
from hypeman_libvirt.rest.requests import MAX_BODY
from hypeman_libvirt.rest.routes import Route

_DEVICE: Final = "/devices/{reference}"
_OF_ONE_HOST: Final = (
    "/iommu-groups",
    "/devices/history",
    "/devices/topology",
    "/devices/vgpu-profiles",
)
"""Paths that a hub hands on to the host that ``?host=`` names."""


def hub_routes(hub: Hub, max_body: int = MAX_BODY) -> Sequence[Route]:
    """List the API of a fleet.

    Whatever an agent has below a device is forwarded, whether this version knows it or not.
    """
    devices = FleetDevices(hub.listing, hub.forwarder, max_body)
    device = OneFleetDevice(hub.listing, hub.forwarder, max_body)
    of_one_host, reports = OfOneHost(hub.forwarder), FleetReports(hub.hosts)
    return (
        Route("/devices", devices, {"GET": "device:read", "POST": "device:write"}),
        Route("/devices/available", devices, {"GET": "device:read"}, "available"),
        Route("/devices/preflight", devices, {"GET": "device:read"}, "preflight"),
        Route("/devices/events", FleetEvents(hub.feed), {"GET": "device:read"}, waits="follow"),
        Route(
            _DEVICE,
            device,
            {"GET": "device:read", "PATCH": "device:write", "DELETE": "device:delete"},
        ),
        Route(
            f"{_DEVICE}/{{operation}}",
            device,
            {
                "GET": "device:read",
                "POST": "device:write",
                "PUT": "device:write",
                "DELETE": "device:delete",
            },
            "operation",
        ),
        *(Route(path, of_one_host, {"GET": "device:read"}) for path in _OF_ONE_HOST),
        Route("/iommu-groups/{number}", of_one_host, {"GET": "device:read"}, "one"),
        Route("/resources", reports, {"GET": "resource:read"}, "resources"),
        Route("/capabilities", reports, {"GET": IDENTIFIED}, "capabilities"),
        *fleet_routes(hub, max_body),
    )


def fleet_routes(hub: Hub, max_body: int) -> Sequence[Route]:
    """List what only a fleet has."""
    claims = Claims(hub.claiming, hub.claims, max_body)
    hosts, host = FleetHosts(hub.hosts, max_body), OneFleetHost(hub.hosts, hub.listing, max_body)
    answering = {
        "/hosts": (hosts, None),
        "/hosts/{name}": (host, None),
        "/devices/claims": (claims, None),
        "/devices/claims/{claim}": (claims, "one"),
    }
    return [
        Route(path, answering[path][0], permissions, answering[path][1])
        for path, permissions in FLEET_PATHS.items()
    ]


def agent_routes(hub: Hub) -> Sequence[Route]:
    """List what agents send to; they authenticate with keys of their own."""
    messages = AgentMessages(hub.hosts, hub.reports, hub.tokens)
    return (
        Route(ENROL_PATH, messages, {"POST": None}, "enrol"),
        Route(REPORT_PATH, messages, {"POST": None}, "report"),
    )
