"""The last changes that this service made, and for whom: in memory, until it ends."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from hypeman_libvirt.devices.model import Change, Device
from hypeman_libvirt.devices.ports import Clock

_REMEMBERED: Final = 1000
"""Changes; some 300 bytes each."""
_MINUTES: Final = 24 * 60
"""Minutes with operations that are remembered; at most one entry for each and each operation."""


@dataclass(frozen=True, slots=True)
class PastChange:
    """A change as it is remembered.

    Attributes:
        at: UTC.
        action: As in Change.
        subject: Who made it; None without auth.
        forced: The guard of critical devices was overridden.
        device: After it; before it, where it was unregistered.
    """

    at: datetime
    action: str
    subject: str | None
    forced: bool
    device: Device


@dataclass(frozen=True, slots=True)
class MinuteOfOperations:
    """How often an operation succeeded and failed in one minute.

    Attributes:
        minute: Its beginning, UTC.
        operation: ``bind``, ``unbind``, ``attach`` or ``detach``.
        successes: Answers below 400.
        failures: All others, refusals included.
    """

    minute: datetime
    operation: str
    successes: int = 0
    failures: int = 0


class History:
    """Remembers who changed what, and counts operations by the minute. Safe between threads."""

    def __init__(self, clock: Clock) -> None:
        """Begin with nothing."""
        self._clock = clock
        self._lock = threading.Lock()
        self._changes: deque[PastChange] = deque(maxlen=_REMEMBERED)
        self._operations: deque[MinuteOfOperations] = deque(maxlen=_MINUTES)

    def add(self, change: Change) -> None:
        """Remember a change."""
        device = change.after or change.before
        if device is None:
            return
        past = PastChange(
            self._clock(), change.action, change.caller.subject, change.forced, device
        )
        with self._lock:
            self._changes.append(past)

    def count(self, operation: str, *, succeeded: bool) -> None:
        """Count an operation that has been answered."""
        minute = self._clock().replace(second=0, microsecond=0)
        with self._lock:
            counted = self._take(minute, operation)
            if succeeded:
                counted = replace(counted, successes=counted.successes + 1)
            else:
                counted = replace(counted, failures=counted.failures + 1)
            self._operations.append(counted)

    def changes(self) -> Sequence[PastChange]:
        """List the changes, the oldest first."""
        with self._lock:
            return list(self._changes)

    def operations(self) -> Sequence[MinuteOfOperations]:
        """List minutes in which there were operations, the oldest first."""
        with self._lock:
            return sorted(self._operations, key=lambda each: (each.minute, each.operation))

    def _take(self, minute: datetime, operation: str) -> MinuteOfOperations:
        """Take out what was counted in the minute so far; it is among the last few."""
        for each in reversed(self._operations):
            if each.minute != minute:
                break
            if each.operation == operation:
                self._operations.remove(each)
                return each
        return MinuteOfOperations(minute, operation)
