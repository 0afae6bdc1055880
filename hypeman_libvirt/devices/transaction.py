"""One operation at a time on a device: locks, a deadline, and an undo for all that was done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, ExitStack
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Final, TypeVar

from hypeman_libvirt.devices.errors import BusyError, OperationTimeoutError
from hypeman_libvirt.devices.ports import Held, HostChanges, Locks

Result = TypeVar("Result")
_BETWEEN_TRIES: Final = 0.05
"""Seconds between two tries to take a lock."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """One operation under way.

    Attributes:
        changes: The connection that it changes the host over.
        undo: What takes back all that was done, run when the operation fails. Each undo is
            registered before the call that it undoes, since a reply may be lost.
        locks: Holds locks until the operation ends.
        lock_keys: What is locked.
    """

    changes: HostChanges
    undo: ExitStack
    _locks: Locks
    _held: ExitStack
    lock_keys: set[str] = field(default_factory=set)

    def lock(self, keys: Collection[str]) -> None:
        """Lock what is not locked yet, until the operation ends.

        Raises:
            BusyError: Another operation holds one of the locks.
        """
        missing = set(keys) - self.lock_keys
        if missing:
            self._held.enter_context(self._locks.hold(missing))
            self.lock_keys.update(missing)


class Transactions:
    """Runs operations on threads of their own, because libvirt may hold one for ever.

    A client waits no longer than the deadline. The operation itself goes on: until libvirt comes
    back, what it has locked answers ``busy``, and then the operation finishes or undoes itself.
    """

    def __init__(
        self,
        open_changes: Callable[[], AbstractContextManager[HostChanges]],
        locks: Locks,
        *,
        deadline: float,
        at_once: int,
        start: Callable[[threading.Thread], None] = threading.Thread.start,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Allow ``at_once`` operations, each of which clients await for ``deadline`` seconds.

        Args:
            open_changes: Opens what changes the host, and closes it again.
            locks: Exclude operations on the same devices.
            deadline: Seconds.
            at_once: Operations.
            start: Starts a thread; fails with RuntimeError when the process may have no more.
            monotonic: Seconds on a clock that is never set.
            sleep: Waits for so many seconds.
        """
        self._open_changes = open_changes
        self._locks = locks
        self._deadline = deadline
        self._at_once = at_once
        self._start = start
        self._monotonic = monotonic
        self._sleep = sleep
        self._idle: Final = threading.Condition()
        self._running = 0

    def run(
        self, keys: Collection[str], work: Callable[[Transaction], Result], patience: float = 0.0
    ) -> Result:
        """Do all of the work or none of it, with locks on all of the keys.

        Args:
            keys: What to lock.
            work: What to do.
            patience: Seconds to wait for locks that another operation holds.

        Raises:
            BusyError: A lock is held elsewhere, every worker waits, or no thread can be started.
            OperationTimeoutError: The work is not done by the deadline, and goes on.
        """
        held = self._hold(keys, patience)
        with ExitStack() as refused:
            refused.callback(held.release)
            self._take_worker()
            refused.callback(self._free_worker)
            future = self._start_work(held, set(keys), work)
            refused.pop_all()
        done, _ = wait([future], self._deadline)
        if not done:
            raise OperationTimeoutError(
                f"libvirt did not come back within {self._deadline:g} s; the operation goes on",
                hint="GET the device to see how it ends; until then it answers busy",
            )
        return future.result()

    def hold(self, keys: Collection[str]) -> Held:
        """Lock for something short in the caller's own thread.

        Raises:
            BusyError: An operation holds one of the locks.
        """
        return self._locks.hold(keys)

    def _hold(self, keys: Collection[str], patience: float) -> Held:
        give_up = self._monotonic() + patience
        while True:
            try:
                return self._locks.hold(keys)
            except BusyError:
                if self._monotonic() >= give_up:
                    raise
            self._sleep(_BETWEEN_TRIES)

    def drain(self, seconds: float) -> bool:
        """Wait for operations under way, those that have answered ``timeout`` included.

        Returns:
            Whether all have ended in that time.
        """
        with self._idle:
            return self._idle.wait_for(lambda: self._running == 0, seconds)

    def _start_work(
        self, held: Held, keys: set[str], work: Callable[[Transaction], Result]
    ) -> Future[Result]:
        future: Future[Result] = Future()

        def all_or_nothing() -> Result:
            with ExitStack() as ending:
                ending.callback(self._free_worker)
                ending.callback(held.release)
                further = ending.enter_context(ExitStack())
                changes = ending.enter_context(self._open_changes())
                undo = ending.enter_context(ExitStack())
                result = work(Transaction(changes, undo, self._locks, further, keys))
                undo.pop_all()
                return result

        context = copy_context()  # so that the log of the work names the request
        thread = threading.Thread(
            target=context.run, args=(_fulfil, future, all_or_nothing), daemon=True
        )
        try:
            self._start(thread)
        except RuntimeError as error:
            raise BusyError("the service can start no more threads", hint="try again") from error
        return future

    def _take_worker(self) -> None:
        with self._idle:
            if self._running >= self._at_once:
                raise BusyError(
                    f"all {self._at_once} workers wait for libvirt", hint="try again later"
                )
            self._running += 1

    def _free_worker(self) -> None:
        with self._idle:
            self._running -= 1
            self._idle.notify_all()


def _fulfil(future: Future[Result], work: Callable[[], Result]) -> None:
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - whoever waits for the future raises it
        future.set_exception(error)
    else:
        future.set_result(result)
