"""One supervised connection to libvirt: opened when needed, opened again when lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeAlias, TypeVar

import libvirt

from hypeman_libvirt.devices.errors import DeviceError
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
from hypeman_libvirt.host.event_registration import (
    KINDS,
    EventRegistration,
    Kind,
    answers,
    unless_lacking,
)

_log = logging.getLogger(__name__)
T = TypeVar("T")

Observe = Callable[[str, float, int | None], None]
"""Is called after each call: its name in the binding, seconds, and libvirt's code if it failed."""

KeepAlive: TypeAlias = tuple[int, int]
"""Seconds between questions, and how many may stay unanswered."""

FOR_CHANGES: Final[KeepAlive] = (5, 3)
FOR_READS: Final[KeepAlive] = (2, 2)
"""6 seconds: a libvirtd that hangs holds up a read no longer, and reads can be repeated."""

_PAUSE: Final = 1.0
"""Seconds after a failed open before the next try; requests fail at once meanwhile."""
_DIALLING: Final = 6.0
"""Seconds that one request waits for a connection; it is opened on meanwhile."""
_PATIENCE: Final = 2.0
"""Seconds that a request waits while another one opens the connection."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """A change that libvirt announces.

    Attributes:
        kind: ``connection`` for one that was opened or lost: anything may have changed.
        name: Of the domain or node device; None for a connection.
    """

    kind: Literal["connection"] | Kind
    name: str | None = None


Listen = Callable[[Announcement], None]
"""Is called from any thread, and must return at once."""

_CONNECTION: Final = Announcement("connection")


class Session:
    """One connection that was opened, and what it announces."""

    def __init__(self, connection: libvirt.virConnect, events: EventRegistration) -> None:
        """Take both."""
        self.connection = connection
        self.events = events

    def let_go(self) -> None:
        """Unregister everything, so that the last reference closes the connection.

        Other threads may still be in calls on it; libvirt holds it for as long as callbacks are
        registered.
        """
        self.events.unregister()
        with suppress(libvirt.libvirtError):
            self.connection.unregisterCloseCallback()

    def close(self) -> None:
        """Close it now."""
        self.let_go()
        with suppress(libvirt.libvirtError):
            self.connection.close()


@contextmanager
def _translated(call: str, meanings: Meanings | None) -> Iterator[None]:
    """Raise libvirt's errors as ours."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise translate(error, call, meanings) from error


def ignore_call(_call: str, _seconds: float, _code: int | None) -> None:
    """Observe nothing."""


class Connection:
    """A connection to the libvirt host of a URI, safe between threads.

    A dead libvirt connection never recovers, so each call gets the connection of the moment and
    looks up its objects again. Reads are retried once, writes never: a write whose answer was
    lost may have happened.
    """

    def __init__(
        self,
        uri: str,
        observe: Observe = ignore_call,
        monotonic: Callable[[], float] = time.monotonic,
        keepalive: KeepAlive = FOR_CHANGES,
        before_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """Open nothing yet.

        Args:
            uri: https://libvirt.org/uri.html
            observe: Is called after each call.
            monotonic: Seconds that never go back.
            keepalive: How soon a connection that is silent is taken for dead.
            before_waiting: Is called before each call that may wait; see NonBlocking.
        """
        self.before_waiting = before_waiting
        self.uri = uri
        self._observe = observe
        self._monotonic = monotonic
        self._keepalive = keepalive
        self._dialer = Dialer(self._dial)
        self._opening = threading.Lock()
        self._current: Session | None = None
        self._lost: libvirt.virConnect | None = None
        self._not_before = float("-inf")
        self._listeners: list[Listen] = []
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
        with _translated(call, READING):
            connection = self._connect()
            try:
                return self._timed(call, partial(ask, connection))
            except libvirt.libvirtError as error:
                return self._repeat(connection, error, call, ask)

    def read_part(self, call: str, ask: Callable[[libvirt.virConnect], T]) -> T | None:
        """Read what another daemon than the one connected to may know; None while it is down.

        The connection stays, for it serves everything else. It may itself have lost that daemon
        for ever, though it is there again, so a connection of its own is asked before giving up.

        Args:
            call: The binding's method, for the log and the observer.
            ask: Gets the connection of this moment.

        Raises:
            DeviceError: See ``errors.translate``.
        """
        with _translated(call, READING):
            connection = self._connect()
            try:
                return self._timed(call, partial(ask, connection))
            except libvirt.libvirtError as error:
                if not (is_lost(error) and answers(connection)):
                    return self._repeat(connection, error, call, ask)
        with closing(Connection(self.uri, self._observe, self._monotonic, self._keepalive)) as own:
            try:
                return own.ask_once(call, ask)
            except UNAVAILABLE[0]:
                return None

    def ask_once(self, call: str, ask: Callable[[libvirt.virConnect], T]) -> T:
        """Read once; the connection stays, whatever comes of it.

        Raises:
            DeviceError: See ``errors.translate``.
        """
        with _translated(call, READING):
            return self._timed(call, partial(ask, self._connect()))

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
        with _translated(call, meanings):
            return self._once(call, change)

    def subscribe(self, listen: Listen) -> None:
        """Have ``listen`` called after libvirt's events, a new open and a loss."""
        with self._opening:
            self._listeners.append(listen)
            if self._current is not None:
                self._register_events(self._current)

    def announces(self, kind: Kind) -> bool:
        """Whether libvirt announces every change of that kind, now; subscribe first."""
        session = self._current
        alive = session is not None and session.connection is not self._lost
        return session is not None and alive and session.events.announces(kind)

    def announced(self) -> Mapping[str, bool]:
        """Say of each kind whether libvirt announces its changes now."""
        return {kind: self.announces(kind) for kind in KINDS}

    def unannounced(self) -> Mapping[str, DeviceError]:
        """Say why libvirt does not announce what its driver could; empty if nothing failed."""
        session = self._current
        return {} if session is None else session.events.refused

    def close(self) -> None:
        """Close the connection, once nothing uses it any more."""
        with self._opening:
            session, self._current = self._current, None
            self._dialer.abandon()
            if session is not None:
                session.close()

    def _repeat(
        self,
        connection: libvirt.virConnect,
        error: libvirt.libvirtError,
        call: str,
        ask: Callable[[libvirt.virConnect], T],
    ) -> T:
        """Ask once more where that may help, over another connection if this one is lost."""
        if is_lost(error):
            self._discard(connection)
        elif not is_unexplained(error):
            raise error
        return self._once(call, ask)

    def _once(self, call: str, ask: Callable[[libvirt.virConnect], T]) -> T:
        connection = self._connect()
        try:
            return self._timed(call, partial(ask, connection))
        except libvirt.libvirtError as error:
            if is_lost(error):
                self._discard(connection)
            raise

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
        self.before_waiting()
        session = self._current
        if session is not None and session.connection is not self._lost:
            if self._listeners and session.events.is_due():
                self._register_late(session)
            return session.connection
        if not self._opening.acquire(timeout=_PATIENCE):
            raise UNAVAILABLE[0](UNAVAILABLE[1])
        try:
            if self._current is not None and self._current.connection is self._lost:
                self._drop(self._current)
            return (self._current or self._open()).connection
        finally:
            self._opening.release()

    def _open(self) -> Session:
        if self._monotonic() < self._not_before:
            raise UNAVAILABLE[0](UNAVAILABLE[1])
        EVENT_LOOP.start()
        try:
            session = self._dialer.open(_DIALLING)
        except TimeoutError:
            raise UNAVAILABLE[0](UNAVAILABLE[1]) from None
        except libvirt.libvirtError as error:
            self._not_before = self._monotonic() + _PAUSE
            raise translate(error, "open", READING) from error
        if self._listeners:
            self._announce(_CONNECTION)  # before a cache takes it for one that announces
        self._current = session
        return session

    def _dial(self) -> Session:
        """Open, notice a dead connection soon, and register events before it is used.

        Drivers in this process cannot die.
        """
        connection = self._timed("open", lambda: libvirt.open(self.uri))
        session = Session(
            connection, EventRegistration(connection, self._on_event, self._monotonic)
        )
        try:
            with unless_lacking():
                connection.setKeepAlive(*self._keepalive)
            with unless_lacking():
                connection.registerCloseCallback(self._on_close, None)
            if self._listeners:
                session.events.register()
        except libvirt.libvirtError:
            session.close()
            raise
        return session

    def _register_late(self, session: Session) -> None:
        """Register what libvirt refused before; whoever comes meanwhile does not wait for it."""
        if self._opening.acquire(blocking=False):
            try:
                if session is self._current:
                    self._register_events(session)
            finally:
                self._opening.release()

    def _register_events(self, session: Session) -> None:
        """Register on a connection that is in use, and invalidate what changed unannounced."""
        try:
            session.events.register()
        except libvirt.libvirtError:
            self._drop(session)
        self._announce(_CONNECTION)

    def _on_close(self, connection: libvirt.virConnect, reason: int, _opaque: object) -> None:
        """Only note it: libvirt allows nothing slow in its callbacks, and no unregistering."""
        _log.warning("libvirt closed the connection to %s, reason %s", self.uri, reason)
        self._lost = connection
        self._announce(_CONNECTION)

    def _discard(self, connection: libvirt.virConnect) -> None:
        with self._opening:
            if self._current is not None and self._current.connection is connection:
                self._drop(self._current)

    def _drop(self, session: Session) -> None:
        """Drop a dead connection without closing it."""
        self.losses += 1
        self._current = self._lost = None
        session.let_go()

    def _on_event(self, kind: Kind, name: str) -> None:
        self._announce(Announcement(kind, name))

    def _announce(self, announcement: Announcement) -> None:
        for listen in self._listeners:
            listen(announcement)
