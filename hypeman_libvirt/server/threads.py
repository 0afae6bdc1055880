"""Threads that may wait for ever without holding up the end of the process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

_Task: TypeAlias = tuple["Future[Any]", Callable[[], Any]]


class DaemonThreads(Executor):
    """A pool whose threads end with the process, whatever hangs in them.

    The standard library's pool awaits its threads at the end, and a call to libvirt may hang.
    """

    def __init__(self, most: int) -> None:
        """Start no thread before it is needed.

        Args:
            most: Threads; what comes while all are busy waits.
        """
        self._most = most
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._starting = threading.Lock()
        self._started = 0

    def submit(  # type: ignore[override]  # typeshed wants names that no caller uses
        self, function: Callable[..., T], *arguments: object, **options: object
    ) -> Future[T]:
        """Have a function called by the next thread that is free."""
        future: Future[T] = Future()
        self._tasks.put((future, lambda: function(*arguments, **options)))
        if not self._idle.acquire(blocking=False):
            self._start_one()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end after what waits for them.

        Args:
            wait: Ignored: whoever hangs is never awaited.
            cancel_futures: Ignored: whoever has queued a request awaits its answer.
        """
        del wait, cancel_futures
        for _ in range(self._started):
            self._tasks.put(None)

    def _start_one(self) -> None:
        with self._starting:
            if self._started < self._most:
                name = f"request-{self._started}"
                threading.Thread(target=self._run, name=name, daemon=True).start()
                self._started += 1

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, call = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001 - whoever awaits it gets it
                    future.set_exception(error)
            del future, call, task  # or the answer stays in memory until the next request
            self._idle.release()
