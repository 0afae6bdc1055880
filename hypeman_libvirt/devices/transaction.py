"""One operation at a time on a device, each with a deadline, none in the way of a read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from typing import TypeVar

from hypeman_libvirt.devices.errors import BusyError, OperationTimeoutError

Result = TypeVar("Result")


class Transactions:
    """Runs changes on threads of their own, because libvirt may hold one for ever.

    A client waits no longer than the deadline. The change itself goes on: until libvirt comes
    back, what it claimed answers ``busy``, and then the change finishes or undoes itself.
    """

    def __init__(self, *, deadline: float, at_once: int) -> None:
        """Allow ``at_once`` operations, each of which clients await for ``deadline`` seconds."""
        self._deadline = deadline
        self._free = threading.Semaphore(at_once)
        self._at_once = at_once
        self._lock = threading.Lock()
        self._claimed: set[Hashable] = set()

    def run(self, claims: Collection[Hashable], work: Callable[[], Result]) -> Result:
        """Do the work while nobody else works on anything in ``claims``, and return its result.

        Raises:
            BusyError: Something in the claims is being worked on, or every worker waits.
            OperationTimeoutError: The work is not done by the deadline, and goes on.
        """
        self._claim(claims)
        if not self._free.acquire(blocking=False):
            self._release(claims)
            raise BusyError(f"all {self._at_once} workers wait for libvirt", hint="try again later")
        future: Future[Result] = Future()
        future.add_done_callback(lambda _: self._end(claims))
        context = copy_context()  # so that the log of the work names the request
        threading.Thread(target=context.run, args=(_fulfil, future, work), daemon=True).start()
        try:
            return future.result(self._deadline)
        except TimeoutError as error:
            if future.done():
                raise
            raise OperationTimeoutError(
                f"libvirt did not come back within {self._deadline:g} s; the operation goes on",
                hint="GET the device to see how it ends; until then it answers busy",
            ) from error

    @contextmanager
    def alone(self, claims: Collection[Hashable]) -> Iterator[None]:
        """Do something short in the caller's thread while nobody else works on the claims.

        Raises:
            BusyError: Something in the claims is being worked on.
        """
        self._claim(claims)
        try:
            yield
        finally:
            self._release(claims)

    def is_busy(self, claim: Hashable) -> bool:
        """Whether an operation on it has not come back yet."""
        with self._lock:
            return claim in self._claimed

    def _claim(self, claims: Collection[Hashable]) -> None:
        with self._lock:
            taken = self._claimed.intersection(claims)
            if taken:
                raise BusyError(
                    f"another operation on {', '.join(sorted(map(str, taken)))} is running",
                    hint="try again when it has come back",
                )
            self._claimed.update(claims)

    def _release(self, claims: Collection[Hashable]) -> None:
        with self._lock:
            self._claimed.difference_update(claims)

    def _end(self, claims: Collection[Hashable]) -> None:
        self._release(claims)
        self._free.release()


def _fulfil(future: Future[Result], work: Callable[[], Result]) -> None:
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - whoever waits for the future raises it
        future.set_exception(error)
    else:
        future.set_result(result)
