"""Events of the whole fleet, for those that follow them; PostgreSQL's NOTIFY wakes them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from hypeman_libvirt.devices.errors import DeviceError, TooManyListenersError
from hypeman_libvirt.hub.database import CHANNEL, Database
from hypeman_libvirt.hub.listing import Listing

_log: Final = logging.getLogger(__name__)
_BATCH: Final = 500
_DIGITS: Final = 18
"""Of a number that fits into the database's 64 bits."""
_LOOK_AFTER: Final = 5.0
"""Seconds after which followers look for events that nobody has announced: NOTIFY is not repeated
to who was not connected."""
_LONGEST_STREAM: Final = 10_000
"""Events after which a stream ends, so that no server buffers without limit for a client."""


@dataclass(frozen=True, slots=True)
class FleetEvent:
    """Something that happened on a host.

    Attributes:
        id: Grows; resumes a stream.
        type: What happened.
        host: Name of the host.
        body: As its agent reported it, a JSON object.
    """

    id: str
    type: str
    host: str
    body: str


class Announcements:
    """Listens to the database on a thread, and wakes whoever waits."""

    def __init__(self, database: Database, sleep: Callable[[float], None] = time.sleep) -> None:
        """Listen to this database once it is started."""
        self._database = database
        self._sleep = sleep
        self._changed = threading.Condition()
        self._count = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to listen."""
        self._thread = threading.Thread(target=self._run, name="announcements", daemon=True)
        self._thread.start()

    def wait(self, seen: int, seconds: float) -> int:
        """Wait for an announcement after those that were seen; return how many there were."""
        with self._changed:
            self._changed.wait_for(lambda: self._count != seen or self._closed, seconds)
            return self._count

    @property
    def is_closed(self) -> bool:
        """Whether nothing more will come."""
        return self._closed

    def close(self) -> None:
        """End; whoever waits is woken."""
        self._closed = True
        self._wake()
        if self._thread is not None:
            self._thread.join(2 * _TURN)

    def _run(self) -> None:
        while not self._closed:
            try:
                self._listen()
            except (SQLAlchemyError, OSError) as error:
                _log.warning("announcements of the database do not arrive: %s", error)
            except Exception as error:  # noqa: BLE001 - the driver's own; the thread must not end
                _log.warning("announcements of the database do not arrive: %s", error)
            self._wake()  # what came meanwhile was announced to nobody
            if not self._closed:
                self._sleep(_TURN)

    def _listen(self) -> None:
        held = self._database.engine.raw_connection()
        connection: Any = held.driver_connection
        held.detach()  # the pool has no use for a connection that listens
        with closing(connection):
            connection.autocommit = True
            connection.execute(f"LISTEN {CHANNEL}")
            self._wake()
            while not self._closed:
                for _ in connection.notifies(timeout=_TURN, stop_after=1):
                    self._wake()

    def _wake(self) -> None:
        with self._changed:
            self._count += 1
            self._changed.notify_all()


_TURN: Final = 0.25
"""Seconds after which the listener sees that it is to end, or tries again."""


class FleetFeed:
    """Streams events to clients."""

    def __init__(
        self,
        listing: Listing,
        announcements: Announcements,
        clock: Callable[[], float],
        *,
        heartbeat: float,
        most_listeners: int,
    ) -> None:
        """Read events here, when these announce some.

        Args:
            listing: Has the events.
            announcements: Say when there are new ones.
            clock: Seconds since 1970.
            heartbeat: Seconds after which a listener that waits gets a sign of life.
            most_listeners: A further one is refused.
        """
        self._listing = listing
        self._announcements = announcements
        self._clock = clock
        self._heartbeat = heartbeat
        self._places = threading.BoundedSemaphore(most_listeners)
        self._most = most_listeners

    @contextmanager
    def listen(
        self,
        last_event_id: str | None,
        until: int | None = None,
        hosts: Collection[str] | None = None,
    ) -> Iterator[Iterator[FleetEvent | None]]:
        """Yield events as they come, those after ``last_event_id`` first; None as sign of life.

        Args:
            last_event_id: Of the last event that the listener has seen; of any hub.
            until: Seconds since 1970 at which it ends; None for never.
            hosts: Names of those whose events the listener may see; None for all.

        Raises:
            TooManyListenersError: As many as are allowed listen already.
            RegistryUnavailableError: The database does not answer.
        """
        if not self._places.acquire(blocking=False):
            raise TooManyListenersError(
                f"{self._most} clients listen already", hint="try again later"
            )
        try:
            text = last_event_id or ""
            known = (
                int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None
            )
            start = self._listing.last_event() if known is None else known
            yield self._stream(start, until, hosts)
        finally:
            self._places.release()

    def _stream(
        self, start: int, until: int | None, hosts: Collection[str] | None
    ) -> Iterator[FleetEvent | None]:
        last, seen, waiting = start, -1, deque[FleetEvent]()
        silent_since = self._clock()
        for _ in range(_LONGEST_STREAM):
            while not waiting:
                now = self._clock()
                if self._announcements.is_closed or (until is not None and now >= until):
                    return
                last, waiting = self._next(last, hosts)
                if waiting:
                    break
                if now - silent_since >= self._heartbeat:
                    silent_since = now
                    yield None
                seen = self._announcements.wait(seen, self._patience(until, silent_since))
            silent_since = self._clock()
            yield waiting.popleft()

    def _next(self, last: int, hosts: Collection[str] | None) -> tuple[int, deque[FleetEvent]]:
        try:
            rows = self._listing.events_after(last, _BATCH)
        except DeviceError:
            return last, deque()  # the database is away; the stream waits for it
        events = deque(
            FleetEvent(str(row.sequence), row.type, row.name, row.body)
            for row in rows
            if hosts is None or row.name in hosts
        )
        return (rows[-1].sequence if rows else last), events

    def _patience(self, until: int | None, silent_since: float) -> float:
        now = self._clock()
        ends = [silent_since + self._heartbeat - now, _LOOK_AFTER]
        if until is not None:
            ends.append(until - now)
        return max(0.01, min(ends))
