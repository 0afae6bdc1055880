"""What agents and hubs say to each other, as JSON over HTTPS.

Both sides ignore fields that they do not know, so that versions one apart work together; the
bodies of devices are handed on as the agent has written them.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

ENROL_PATH: Final = "/agents/enrol"
REPORT_PATH: Final = "/agents/reports"
HEARTBEAT: Final = 10.0
"""Seconds after which an agent reports, whether something has changed or not."""
ISSUER: Final = "hypeman-libvirt-hub"
"""``iss`` of the tokens that a hub signs for its agents."""
MAX_REPORT: Final = 2 * 1024 * 1024
"""Bytes of a report; a device takes some 700 of them."""


class Message(BaseModel):
    """Anything that one side sends to the other."""

    model_config = ConfigDict(extra="ignore")


class Enrolment(Message):
    """An agent asks to become a host of the fleet.

    Attributes:
        token: One-time token that the hub has made for this host.
        host: Key of the libvirt host; see ``Host.key``.
        url: Where the hub reaches the agent.
        agent_key: Made by the agent; it authenticates each of its reports.
        version: Of the agent.
    """

    token: str
    host: str = Field(min_length=1, max_length=512)
    url: str = Field(min_length=1, max_length=512)
    agent_key: str = Field(min_length=32, max_length=128)
    version: str


class Enrolled(Message):
    """The hub has taken the agent in.

    Attributes:
        name: Of the host in the fleet.
        secret: Signs the tokens with which hubs call this agent.
    """

    name: str
    secret: str


class ReportedDevice(Message):
    """A registered device.

    Attributes:
        body: As ``GET /devices`` of the agent answers it.
        numa_node: Of the device; None where libvirt does not say.
    """

    body: dict[str, Any]
    numa_node: int | None = None


class ReportedEvent(Message):
    """Something that happened to a device.

    Attributes:
        id: Unique on the host; a report that is sent twice does not make two of it.
        body: As ``GET /devices/events`` of the agent answers it.
    """

    id: str
    body: dict[str, Any]


class Instance(Message):
    """A domain, by the three names that ``instance`` of a request may use."""

    uuid: str
    name: str
    id: str


class Report(Message):
    """What has changed on a host since the report before; a full one says everything.

    Attributes:
        host: Key of the host that the agent speaks for.
        epoch: Of this run of the agent; another one starts with a full report.
        sequence: 1 for the first report of an epoch, then one more each time.
        full: Everything is in it, and what is not in it is gone.
        sent_at: Seconds since 1970 by the agent's clock.
        version: Of the agent.
        url: Where the hub reaches the agent.
        problem: Code of the error that hinders the agent from reading its host; None without.
        devices: Registered devices that are new or different.
        devices_gone: Ids of those that are no longer registered.
        available: Assignable devices that are new or different, as ``GET /devices/available``.
        available_gone: Addresses of those that are gone, or UUIDs of mediated devices.
        events: What happened, in this order.
        resources: As ``GET /resources``; None where it is as before.
        capabilities: As ``GET /capabilities``; likewise.
        instances: All domains; likewise.
    """

    host: str
    epoch: str = Field(min_length=1, max_length=64)
    sequence: int = Field(ge=1)
    full: bool = False
    sent_at: float
    version: str
    url: str = Field(min_length=1, max_length=512)
    problem: str | None = None
    devices: list[ReportedDevice] = []
    devices_gone: list[str] = []
    available: list[dict[str, Any]] = []
    available_gone: list[str] = []
    events: list[ReportedEvent] = []
    resources: dict[str, Any] | None = None
    capabilities: dict[str, Any] | None = None
    instances: list[Instance] | None = None


class Received(Message):
    """The hub has stored a report.

    Attributes:
        sequence: Of the report.
        heartbeat: Seconds after which the next one is expected.
    """

    sequence: int
    heartbeat: float
