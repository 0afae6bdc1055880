"""What libvirt announces when a guest lets go of a device, or refuses to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final, Literal, TypeAlias

import libvirt

from hypeman_libvirt.devices.domain import Domain
from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.devices.ports import RemovalWatch
from hypeman_libvirt.host.connection import Connection

Outcome: TypeAlias = Literal["removed", "failed"]

_EVENTS: Final[dict[int, Outcome]] = {
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED: "removed",
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED: "failed",
}


class EventWatch:
    """Events of one domain, in the order in which libvirt sent them."""

    def __init__(self) -> None:
        """Hear nothing yet."""
        self._heard: SimpleQueue[Outcome] = SimpleQueue()

    def wait(self, seconds: float) -> Outcome | None:
        """Return the next event; None when none came in time."""
        try:
            return self._heard.get(timeout=seconds)
        except Empty:
            return None

    def hear(self, outcome: Outcome, *_event: object) -> None:
        """Take an event in; libvirt's thread calls this and goes on at once."""
        self._heard.put(outcome)


@contextmanager
def watch_removal(connection: Connection, domain: Domain) -> Iterator[RemovalWatch]:
    """Register for the domain's events, and unregister at the end of the block.

    A driver without these events, or a connection that is lost meanwhile, announces nothing: the
    caller reads the domain itself then.
    """
    watch = EventWatch()
    with ExitStack() as registered:
        with suppress(DeviceError):
            connection.read(
                "domainEventRegisterAny", lambda c: _register(c, domain.uuid, watch, registered)
            )
        yield watch


def _register(
    connection: libvirt.virConnect, uuid: str, watch: EventWatch, registered: ExitStack
) -> None:
    domain = connection.lookupByUUIDString(uuid)
    for event, outcome in _EVENTS.items():
        hear = partial(watch.hear, outcome)
        number = connection.domainEventRegisterAny(domain, event, hear, None)
        registered.callback(_deregister, connection, number)


def _deregister(connection: libvirt.virConnect, number: int) -> None:
    """Forget a registration; with a lost connection it is gone already."""
    with suppress(libvirt.libvirtError):
        connection.domainEventDeregisterAny(number)
