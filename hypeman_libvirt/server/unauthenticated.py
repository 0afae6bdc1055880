"""A limit of requests without a valid token, so that those with one are answered in time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Final

import structlog

from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.rest.auth import Auth
from hypeman_libvirt.server.answers import SERVER, Headers, HttpAnswer
from hypeman_libvirt.server.asgi import Scope

_PER_SECOND: Final = 1000.0
"""Requests that are answered whoever asks: what a third of a core does."""
_BETWEEN_LINES: Final = 10.0
"""Seconds between two lines of the log that say how many were refused."""
_BODY: Final = json.dumps(
    {
        "code": "overloaded",
        "message": "too many requests without a valid token; try again later, or send one",
    }
).encode()
_HEADERS: Final[Headers] = [
    SERVER,
    (b"content-type", b"application/json"),
    (b"content-length", str(len(_BODY)).encode()),
    (b"retry-after", b"1"),
    (b"connection", b"close"),
]

_log: Final = structlog.get_logger(__name__)


class UnauthenticatedLimit:
    """Refuses requests without a valid token where there are more than can be answered.

    granian queues requests without a limit, also those whose client has gone: who sends one and
    closes the connection, again and again, would make everybody wait for as long as he goes on.
    Refusing one takes a tenth of the time of answering it. Not safe between threads: granian has
    one.
    """

    def __init__(
        self,
        auth: Auth,
        per_second: float = _PER_SECOND,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with a second's worth.

        Args:
            auth: Knows tokens.
            per_second: Requests that are answered whoever asks.
            monotonic: Seconds that never go back.
        """
        self._auth = auth
        self._per_second = self._left = per_second
        self._monotonic = monotonic
        self._last = self._next_line = monotonic()
        self._refused = 0

    def __call__(self, scope: Scope) -> HttpAnswer | None:
        """Return the refusal of a request; None to let it pass."""
        now = self._monotonic()
        self._left += (now - self._last) * self._per_second
        self._left = min(self._left, self._per_second)
        self._last = now
        if self._left >= 1:
            self._left -= 1
            return None
        if self._has_token(scope):
            return None
        self._refused += 1
        self._report(now)
        return HttpAnswer(503, _HEADERS, _BODY)

    def _has_token(self, scope: Scope) -> bool:
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        try:
            self._auth.identify(sent[0].decode("latin-1") if sent else None)
        except DeviceError:
            return False
        return True

    def _report(self, now: float) -> None:
        if now >= self._next_line:
            _log.warning("requests without a valid token were refused", count=self._refused)
            self._refused, self._next_line = 0, now + _BETWEEN_LINES
