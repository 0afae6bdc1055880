"""One supervised connection to libvirt: opened when needed, opened again when lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeAlias, TypeVar

import libvirt

from hypeman_libvirt.host.dialing import Dialer
from hypeman_libvirt.host.errors import (
    READING,
    UNAVAILABLE,
    Meanings,
    is_lost,
    is_unexplained,
    translate,
)
from hypeman_libvirt.host.event_loop import EVENT_LOOP

_log = logging.getLogger(__name__)
T = TypeVar("T")

Observe = Callable[[str, float, int | None], None]
"""Is told of each call: its name in the binding, seconds, and libvirt's code if it failed."""

KeepAlive: TypeAlias = tuple[int, int]
"""Seconds between questions, and how many may stay unanswered."""

FOR_CHANGES: Final[KeepAlive] = (5, 3)
FOR_READS: Final[KeepAlive] = (2, 2)
"""6 seconds: a libvirtd that hangs holds up whoever looks no longer, and reads can be repeated."""

_PAUSE: Final = 1.0
"""Seconds after a failed open before the next try; requests fail at once meanwhile."""
_DIALLING: Final = 6.0
"""Seconds that one request waits for a connection; it is opened on meanwhile."""
_PATIENCE: Final = 2.0
"""Seconds that a request waits while another one opens the connection."""
_DOMAIN_EVENTS: Final = (
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
    libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
)
_NODE_EVENTS: Final = (
    libvirt.VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE,
    libvirt.VIR_NODE_DEVICE_EVENT_ID_UPDATE,
)


@dataclass(frozen=True, slots=True)
class Announcement:
    """Something has changed, says libvirt.

    Attributes:
        kind: ``connection`` for one that was opened or lost: anything may have changed.
        name: Of the domain or node device; None for a connection.
    """

    kind: Literal["connection", "domain", "node device"]
    name: str | None = None


Listen = Callable[[Announcement], None]
"""Is called from any thread, and must return at once."""

_CONNECTION: Final = Announcement("connection")


def ignore_call(_call: str, _seconds: float, _code: int | None) -> None:
    """Observe nothing."""


class Connection:
    """A connection to the libvirt host of a URI, safe between threads.

    A dead libvirt connection never recovers, so each call gets the connection of the moment and
    looks its objects up again. Reads are retried once, writes never: a write whose answer was
    lost may have happened.
    """

    def __init__(
        self,
        uri: str,
        observe: Observe = ignore_call,
        monotonic: Callable[[], float] = time.monotonic,
        keepalive: KeepAlive = FOR_CHANGES,
    ) -> None:
        """Open nothing yet.

        Args:
            uri: https://libvirt.org/uri.html
            observe: Is told of each call.
            monotonic: Seconds that never go back.
            keepalive: How soon a connection that is silent is taken for dead.
        """
        self.uri = uri
        self._observe = observe
        self._monotonic = monotonic
        self._keepalive = keepalive
        self._dialer = Dialer(lambda: self._timed("open", self._dial))
        self._opening = threading.Lock()
        self._current: libvirt.virConnect | None = None
        self._lost: libvirt.virConnect | None = None
        self._not_before = float("-inf")
        self._listeners: list[Listen] = []
        self._callbacks: list[Callable[[], object]] = []
        self._announced: set[tuple[str, int]] = set()
        self.losses = 0

    def read(self, call: str, ask: Callable[[libvirt.virConnect], T]) -> T:
        """Ask libvirt something that changes nothing; once more if that may help.

        It may where the connection was lost, and where libvirt failed without a cause.

        Args:
            call: The binding's method, for the log and the observer.
            ask: Gets the connection of this moment.

        Raises:
            DeviceError: See ``errors.translate``.
        """
        connection = self._connect()
        try:
            return self._timed(call, lambda: ask(connection))
        except libvirt.libvirtError as error:
            if is_lost(error):
                self._discard(connection)
            elif not is_unexplained(error):
                raise translate(error, call, READING) from error
        return self._once(call, ask, READING)

    def write(
        self,
        call: str,
        change: Callable[[libvirt.virConnect], T],
        meanings: Meanings | None = None,
    ) -> T:
        """Let libvirt change something, once.

        Args:
            call: The binding's method, for the log and the observer.
            change: Gets the connection of this moment.
            meanings: See ``errors.translate``.

        Raises:
            DeviceError: See ``errors.translate``.
        """
        return self._once(call, change, meanings)

    def subscribe(self, listen: Listen) -> None:
        """Have ``listen`` called after libvirt's events, a new open and a loss."""
        with self._opening:
            self._listeners.append(listen)
            if self._current is not None and not self._callbacks:
                self._register_events(self._current)

    def announces(self, kind: Literal["domain", "node device"]) -> bool:
        """Whether libvirt announces every change of that kind, now; subscribe first."""
        events = _DOMAIN_EVENTS if kind == "domain" else _NODE_EVENTS
        alive = self._current is not None and self._current is not self._lost
        return alive and self._announced.issuperset((kind, event) for event in events)

    def close(self) -> None:
        """Close the connection, once nothing uses it any more."""
        with self._opening:
            connection, self._current = self._current, None
            self._dialer.abandon()
            if connection is not None:
                self._unregister(connection)
                with suppress(libvirt.libvirtError):
                    connection.close()

    def _once(
        self,
        call: str,
        ask: Callable[[libvirt.virConnect], T],
        meanings: Meanings | None = None,
    ) -> T:
        connection = self._connect()
        try:
            return self._timed(call, lambda: ask(connection))
        except libvirt.libvirtError as error:
            if is_lost(error):
                self._discard(connection)
            raise translate(error, call, meanings) from error

    def _timed(self, call: str, ask: Callable[[], T]) -> T:
        began = self._monotonic()
        code = None
        try:
            return ask()
        except libvirt.libvirtError as error:
            code = error.get_error_code()
            raise
        finally:
            self._observe(call, self._monotonic() - began, code)

    def _connect(self) -> libvirt.virConnect:
        """Return the connection, or open one. While one thread opens, others wait only briefly."""
        current = self._current
        if current is not None and current is not self._lost:
            return current
        if not self._opening.acquire(timeout=_PATIENCE):
            raise UNAVAILABLE[0](UNAVAILABLE[1])
        try:
            if self._current is not None and self._current is self._lost:
                self._drop(self._current)
            return self._current or self._open()
        finally:
            self._opening.release()

    def _open(self) -> libvirt.virConnect:
        if self._monotonic() < self._not_before:
            raise UNAVAILABLE[0](UNAVAILABLE[1])
        EVENT_LOOP.start()
        try:
            connection = self._dialer.open(_DIALLING)
        except TimeoutError:
            raise UNAVAILABLE[0](UNAVAILABLE[1]) from None
        except libvirt.libvirtError as error:
            self._not_before = self._monotonic() + _PAUSE
            raise translate(error, "open", READING) from error
        self._current = connection
        if self._listeners:
            self._register_events(connection)
            self._announce(_CONNECTION)
        return connection

    def _dial(self) -> libvirt.virConnect:
        """Open, and notice a dead connection soon; drivers in this process cannot die."""
        connection = libvirt.open(self.uri)
        with _unless_lacking():
            connection.setKeepAlive(*self._keepalive)
        with _unless_lacking():
            connection.registerCloseCallback(self._on_close, None)
        return connection

    def _on_close(self, connection: libvirt.virConnect, reason: int, _opaque: object) -> None:
        """Only note it: libvirt allows nothing slow in its callbacks, and no unregistering."""
        _log.warning("libvirt closed the connection to %s, reason %s", self.uri, reason)
        self._lost = connection
        self._announce(_CONNECTION)

    def _discard(self, connection: libvirt.virConnect) -> None:
        with self._opening:
            if self._current is connection:
                self._drop(connection)

    def _drop(self, connection: libvirt.virConnect) -> None:
        """Let go of a dead connection without closing it.

        Other threads may still be in calls on it, so the last reference to it closes it. libvirt
        holds one for as long as callbacks are registered.
        """
        self.losses += 1
        self._current = self._lost = None
        self._unregister(connection)

    def _unregister(self, connection: libvirt.virConnect) -> None:
        callbacks, self._callbacks = self._callbacks, []
        self._announced.clear()
        for unregister in [*callbacks, connection.unregisterCloseCallback]:
            with suppress(libvirt.libvirtError):
                unregister()

    def _register_events(self, connection: libvirt.virConnect) -> None:
        for event in _DOMAIN_EVENTS:
            with _unless_lacking():
                number = connection.domainEventRegisterAny(None, event, self._on_domain, None)
                self._callbacks.append(partial(connection.domainEventDeregisterAny, number))
                self._announced.add(("domain", event))
        for event in _NODE_EVENTS:
            with _unless_lacking():
                number = connection.nodeDeviceEventRegisterAny(None, event, self._on_node, None)
                self._callbacks.append(partial(connection.nodeDeviceEventDeregisterAny, number))
                self._announced.add(("node device", event))

    def _on_domain(self, _: libvirt.virConnect, domain: libvirt.virDomain, *_more: object) -> None:
        self._announce(Announcement("domain", domain.name()))

    def _on_node(self, _: libvirt.virConnect, node: libvirt.virNodeDevice, *_more: object) -> None:
        self._announce(Announcement("node device", node.name()))

    def _announce(self, announcement: Announcement) -> None:
        for listen in self._listeners:
            listen(announcement)


@contextmanager
def _unless_lacking() -> Iterator[None]:
    """Do without what the driver does not have; any other error is one."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
