"""Answers requests to the helper: who may ask, a deadline, one at a time on a card, a log line."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Final, Protocol

from pydantic import JsonValue

from hypeman_libvirt.devices.errors import (
    BusyError,
    DeviceError,
    ForbiddenError,
    HelperFailedError,
    OperationTimeoutError,
)
from hypeman_libvirt.helper.protocol import (
    Answer,
    Problem,
    Request,
    RunReleaseHook,
    parse_request,
)

_log: Final = logging.getLogger(__name__)
_LOGGED: Final = 200
"""Characters of a request that the log repeats."""


class Acts(Protocol):
    """What does the work; ``actions.Actions``."""

    def lock_of(self, request: Request) -> str | None:
        """Return what excludes requests that write to the same card."""

    def perform(self, request: Request) -> JsonValue:
        """Do what is asked."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end.

    Attributes:
        pid: As the kernel knew it when it connected.
        uid: User id.
    """

    pid: int
    uid: int


class Responder:
    """Has requests done, each within a deadline; what the kernel holds goes on behind it."""

    def __init__(self, acts: Acts, allowed: Collection[int], deadline: float = 20.0) -> None:
        """Serve these users.

        Args:
            acts: Does the work.
            allowed: User ids.
            deadline: Seconds after which a request is answered. A release hook has its own.
        """
        self._acts = acts
        self._allowed = frozenset(allowed)
        self._deadline = deadline
        self._lock = threading.Lock()
        self._locked: set[str] = set()
        self._working = 0

    @property
    def is_idle(self) -> bool:
        """Whether no work is under way, that of requests that were answered in time included."""
        return not self._working

    def answer(self, line: bytes, peer: Peer) -> Answer:
        """Answer one line; never raises."""
        asked = repr(line[:_LOGGED])
        try:
            self._demand_allowed(peer)
            request = parse_request(line)
            asked = request.model_dump_json(exclude_none=True)
            result = self._perform(request)
        except DeviceError as error:
            _log.warning("uid=%d pid=%d %s: %s", peer.uid, peer.pid, asked, error.code)
            return Answer(problem=Problem(code=error.code, message=error.message))
        except Exception:  # noqa: BLE001 - whatever it is, the client gets an answer
            _log.exception("uid=%d pid=%d %s: failed", peer.uid, peer.pid, asked)
            problem = Problem(code=HelperFailedError.code, message="the root helper failed")
            return Answer(problem=problem)
        _log.info("uid=%d pid=%d %s: done", peer.uid, peer.pid, asked)
        return Answer(result=result)

    def _demand_allowed(self, peer: Peer) -> None:
        if peer.uid not in self._allowed:
            raise ForbiddenError(f"user id {peer.uid} may not ask the root helper")

    def _perform(self, request: Request) -> JsonValue:
        """Do the work on a thread of its own: the kernel may hold it for as long as a guest runs.

        What it locks stays locked until it comes back.
        """
        release = self._take(self._acts.lock_of(request))
        future: Future[JsonValue] = Future()

        def work() -> None:
            try:
                future.set_result(self._acts.perform(request))
            except BaseException as error:  # noqa: BLE001 - whoever waits for the future raises it
                future.set_exception(error)
            finally:
                release()

        threading.Thread(target=work, daemon=True).start()
        ends_by_itself = isinstance(request, RunReleaseHook)
        done, _ = wait([future], None if ends_by_itself else self._deadline)
        if not done:
            future.add_done_callback(lambda late: _log_late(request, late))
            raise OperationTimeoutError(
                f"the kernel did not come back within {self._deadline:g} s; it goes on",
                hint="until then the device answers busy",
            )
        return future.result()

    def _take(self, key: str | None) -> Callable[[], None]:
        with self._lock:
            if key in self._locked:
                raise BusyError(f"another request about {key} is under way", hint="try again")
            if key is not None:
                self._locked.add(key)
            self._working += 1

        def release() -> None:
            with self._lock:
                self._locked.discard(key or "")
                self._working -= 1

        return release


def _log_late(request: Request, late: Future[JsonValue]) -> None:
    error = late.exception()
    _log.warning(
        "%s: came back late, %s",
        request.model_dump_json(exclude_none=True),
        "done" if error is None else repr(error),
    )
