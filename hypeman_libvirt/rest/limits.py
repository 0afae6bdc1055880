"""How many requests may wait for libvirt or for events, whatever server the app runs on."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, Literal, Protocol, TypeAlias

from hypeman_libvirt.devices.errors import DeviceError, OverloadedError, TooManyListenersError

Waits: TypeAlias = Literal["read", "change", "follow"]
"""What a request may wait for: an answer of libvirt or of a cache, the end of a change, events."""

SPARE_THREADS: Final = 2
"""Threads that a server needs beyond those of the limits: for whatever never waits, and to refuse.
"""
_PATIENCE: Final = 0.25
"""Seconds that a request waits for a place while nothing moves; beyond, libvirt hangs."""


class Limits:
    """Places for requests that may wait, so that every other request finds a thread.

    Each kind has as many places as are allowed. Reads may use the places of the others too, but
    those are never in the way of ``reads`` of them. A request that finds no place waits for as
    long as others come and go; once nothing has moved for a moment it is refused.

    One caller gets half of the places to follow events, so that whoever reconnects again and again
    locks nobody else out.
    """

    def __init__(
        self,
        *,
        reads: int,
        changes: int,
        followers: int,
        patience: float = _PATIENCE,
        monotonic: Callable[[], float] = time.monotonic,
        before_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """Allow so many at once.

        Args:
            reads: Reads that always find a place.
            changes: Changes, each of which may wait for libvirt.
            followers: Streams of events.
            patience: Seconds without any movement after which a request is refused.
            monotonic: Seconds on a clock that is never set.
            before_waiting: Is called before a request waits; see NonBlocking.
        """
        self._before_waiting = before_waiting
        self._places = reads + changes + followers
        self._most: dict[Waits, int] = {
            "read": self._places,
            "change": changes,
            "follow": followers,
        }
        self._patience = patience
        self._monotonic = monotonic
        self._moved = threading.Condition()
        self._inside: Counter[Waits] = Counter()
        self._follow: Counter[str | None] = Counter()
        self._most_of_one = (followers + 1) // 2
        self._last_move: dict[Waits, float] = dict.fromkeys(self._most, monotonic())

    def enter(self, waits: Waits, caller: str | None = None) -> None:
        """Take a place; ``leave`` gives it back.

        Args:
            waits: What for.
            caller: Who asks; None where everybody may do everything.

        Raises:
            OverloadedError: None is free, and nothing moves.
            TooManyListenersError: Likewise, of streams of events; or the caller has too many.
        """
        if waits != "read":  # whatever has a place goes on to wait for libvirt or for events
            self._before_waiting()
        with self._moved:
            self._refuse_greed(waits, caller)
            while not self._has_place(waits):
                remaining = self._last_relevant_move(waits) + self._patience - self._monotonic()
                if remaining <= 0:
                    raise self._refusal(waits)
                self._before_waiting()
                self._moved.wait(remaining)
            self._inside[waits] += 1
            self._follow[caller] += waits == "follow"
            self._last_move[waits] = self._monotonic()

    def leave(self, waits: Waits, caller: str | None = None) -> None:
        """Give a place back."""
        with self._moved:
            self._inside[waits] -= 1
            self._follow[caller] -= waits == "follow"
            if not self._follow[caller]:
                del self._follow[caller]
            self._last_move[waits] = self._monotonic()
            self._moved.notify_all()

    def _refuse_greed(self, waits: Waits, caller: str | None) -> None:
        if waits != "follow" or caller is None or self._follow[caller] < self._most_of_one:
            return
        raise TooManyListenersError(
            f"{self._most_of_one} clients listen already with this token or subject",
            hint="close one of them; one that has gone is noticed within a minute",
        )

    def _has_place(self, waits: Waits) -> bool:
        has_kind = self._inside[waits] < self._most[waits]
        return has_kind and self._inside.total() < self._places

    def _last_relevant_move(self, waits: Waits) -> float:
        if self._inside[waits] >= self._most[waits]:
            return self._last_move[waits]
        return max(self._last_move.values())

    def _refusal(self, waits: Waits) -> DeviceError:
        if waits == "follow":
            most = self._most["follow"]
            return TooManyListenersError(f"{most} clients listen already", hint="try again later")
        return OverloadedError(
            f"{self._inside.total()} requests wait for libvirt or the registry",
            hint="try again later; if it stays so, libvirt hangs on the host",
        )


class ClosableChunks(Protocol):
    """A body as WSGI servers take it."""

    def __iter__(self) -> Iterator[bytes]:
        """Return the chunks."""

    def close(self) -> None:
        """End it, complete or not."""


class HeldStream:
    """The body of an answer that keeps its place until it has been sent or given up."""

    def __init__(self, chunks: ClosableChunks, leave: Callable[[], None]) -> None:
        """Stream these chunks, and leave at their end."""
        self._chunks = chunks
        self._leave = leave

    def __iter__(self) -> Iterator[bytes]:
        """Return the chunks."""
        return iter(self._chunks)

    def close(self) -> None:
        """WSGI servers call it when they are done with the body, complete or not."""
        leave, self._leave = self._leave, _nothing
        try:
            self._chunks.close()
        finally:
            leave()


def _nothing() -> None:
    """Leave no second time."""
