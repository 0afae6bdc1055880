"""Opening connections without waiting for a libvirtd that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Generic, Protocol, TypeVar


class Closing(Protocol):
    """What can be closed."""

    def close(self) -> object:
        """Close it."""


Dialled = TypeVar("Dialled", bound=Closing)


class Dialer(Generic[Dialled]):
    """Opens one connection at a time, in a thread of its own.

    ``libvirt.open`` knows no deadline: a libvirtd that was stopped takes the connection and never
    says a word. For one caller at a time.
    """

    def __init__(self, dial: Callable[[], Dialled]) -> None:
        """Open nothing yet.

        Args:
            dial: Opens a connection, however long that takes.
        """
        self._dial = dial
        self._pending: Future[Dialled] | None = None

    def open(self, patience: float) -> Dialled:
        """Return a connection; the one that an earlier call did not wait for, if there is one.

        Args:
            patience: Seconds to wait; afterwards the next call may find it open.

        Raises:
            TimeoutError: It takes longer.
            Exception: What ``dial`` raised.
        """
        pending = self._pending or self._start()
        with suppress(TimeoutError):
            pending.exception(patience)
        if not pending.done():
            self._pending = pending
            raise TimeoutError
        self._pending = None
        return pending.result()

    def abandon(self) -> None:
        """Close a connection that no caller waits for any more, once it is open."""
        if self._pending is not None:
            self._pending.add_done_callback(_close)
            self._pending = None

    def _start(self) -> Future[Dialled]:
        future: Future[Dialled] = Future()
        # No executor: the interpreter would wait for its threads at the end.
        threading.Thread(target=self._run, args=(future,), daemon=True).start()
        return future

    def _run(self, future: Future[Dialled]) -> None:
        try:
            future.set_result(self._dial())
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            future.set_exception(error)


def _close(dialled: Future[Dialled]) -> None:
    with suppress(Exception):  # no caller is left that could be notified
        dialled.result().close()
