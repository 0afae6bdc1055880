"""Threads that must not wait, and what would have to."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Final


class WouldBlockError(BaseException):
    """What was called would wait for libvirt, the registry or another thread.

    No ``Exception``, so that nothing takes it for a failure: the same is asked again where it may
    wait.
    """


class NonBlocking:
    """Marks the threads that must not wait now; a context of the thread that enters it."""

    def __init__(self) -> None:
        """Mark none."""
        self._thread: Final = threading.local()

    def before_waiting(self) -> None:
        """Announce that what follows may wait.

        Raises:
            WouldBlockError: This thread must not.
        """
        if getattr(self._thread, "marked", False):
            raise WouldBlockError

    def __enter__(self) -> None:
        """Mark this thread."""
        self._thread.marked = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let this thread wait again."""
        self._thread.marked = False
