"""Values that are read again only once something has said that they may have changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

V = TypeVar("V")

_LONGEST: Final = 30.0
"""Seconds after which everything is read again, should an announcement ever have been lost."""


class EventCache(Generic[V]):
    """A cache of what a reader returns, by name. Safe between threads.

    A name that was invalid is read again before the next answer; a reader that comes while another
    one reads waits for it, so that no answer is older than the last announcement before it.
    """

    def __init__(
        self,
        read_all: Callable[[], Mapping[str, V]],
        read_one: Callable[[str], V | None],
        monotonic: Callable[[], float] = time.monotonic,
        before_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """Read nothing yet.

        Args:
            read_all: Every value by its name.
            read_one: The value of one name; None when there is none any more.
            monotonic: Seconds that never go back.
            before_waiting: Is called before a reader may wait; see NonBlocking.
        """
        self._before_waiting = before_waiting
        self._read_all = read_all
        self._read_one = read_one
        self._monotonic = monotonic
        self._values: Mapping[str, V] = {}
        self._good_until = float("-inf")
        self._reading = threading.Lock()
        self._noting = threading.Lock()
        self._invalid: dict[str | None, int] = {None: 0}
        self._count = 0

    def invalidate(self, name: str | None = None) -> None:
        """Have one name, or with None all of them, read again; from any thread, at once."""
        with self._noting:
            self._count += 1
            self._invalid[name] = self._count

    def values(self) -> Mapping[str, V]:
        """Return all values; the very same object as before if none was invalid.

        Raises: what the readers raise. Then everything stays as it was, and invalid.
        """
        if self._invalid:
            self._before_waiting()
            with self._reading:
                return self._refresh(all_of_it=False)
        if self._monotonic() >= self._good_until and self._reading.acquire(blocking=False):
            try:
                return self._refresh(all_of_it=True)
            finally:
                self._reading.release()
        return self._values

    def _refresh(self, *, all_of_it: bool) -> Mapping[str, V]:
        with self._noting:
            invalid = dict(self._invalid)
        if all_of_it or None in invalid:
            good_until = self._monotonic() + _LONGEST
            values = self._read_all()
        elif invalid:
            good_until = self._good_until
            values = self._read_again([name for name in invalid if name is not None])
        else:
            return self._values  # who came before has read it
        with self._noting:
            self._values, self._good_until = values, good_until
            for name, number in invalid.items():
                if self._invalid[name] == number:  # else it was invalid again meanwhile
                    del self._invalid[name]
        return values

    def _read_again(self, names: list[str]) -> Mapping[str, V]:
        read = {name: self._read_one(name) for name in names}
        others = {name: value for name, value in self._values.items() if name not in read}
        return others | {name: value for name, value in read.items() if value is not None}
