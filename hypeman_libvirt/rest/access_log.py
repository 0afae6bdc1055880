"""The line of each request, and its metrics, once its answer has been sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import structlog

from hypeman_libvirt.devices.nonblocking import WouldBlockError

ObserveRequest: TypeAlias = Callable[[str, str | None, int, float], None]
"""Is called with method, template of the path (None for no path of ours), status and seconds."""

LOGGER: Final = "hypeman_libvirt.access"


WriteLine: TypeAlias = Callable[[dict[str, Any]], object]
"""Writes the fields of a request's line."""


class AccessLog:
    """A WSGI app that logs each request of the app inside; never a header or a body.

    The client is whoever has connected: the proxy where there is one, for anybody can send an
    ``X-Forwarded-For``. The proxy's own log has the client, under the same request id.
    """

    def __init__(
        self,
        app: WSGIApplication,
        observe: ObserveRequest,
        monotonic: Callable[[], float] = time.monotonic,
        write_line: WriteLine | None = None,
    ) -> None:
        """Wrap the app that answers.

        Args:
            app: Answers.
            observe: Is told of each request, when its answer has been sent.
            monotonic: Seconds that never go back.
            write_line: Writes the lines; None for the log as structlog is configured.
        """
        self._app = app
        self._observe = observe
        self._monotonic = monotonic
        self._write_line = write_line or _write_by_structlog

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, and remember what the line needs."""
        started = self._monotonic()
        answer: dict[str, Any] = {"status": 500, "request_id": None}

        def remember(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:  # noqa: ANN401
            answer["status"] = int(status[:3])
            answer["request_id"] = {name.lower(): value for name, value in headers}.get(
                "x-request-id"
            )
            return start_response(status, headers, *rest)

        def record() -> None:
            self.record(
                started,
                request_id=answer["request_id"],
                client=environ.get("REMOTE_ADDR"),
                subject=environ.get("hypeman.subject"),
                method=environ["REQUEST_METHOD"],
                path=environ["PATH_INFO"],
                status=answer["status"],
                route=environ.get("hypeman.route"),
                code=environ.get("hypeman.error"),
            )

        try:
            return _Body(self._app(environ, remember), record)
        except WouldBlockError:
            raise  # it is asked again, and that is the request
        except BaseException:
            record()
            raise

    def record(
        self,
        started: float,
        *,
        route: str | None,
        code: str | None = None,
        **fields: Any,  # noqa: ANN401 - those of the line
    ) -> None:
        """Write the line of a request that was answered, and have it counted.

        Args:
            started: When it came, on this log's clock.
            route: Template of its path; None for no path of ours.
            code: Of the error that was answered.
            **fields: request_id, client, subject, method, path and status, in this order.
        """
        seconds = self._monotonic() - started
        fields["seconds"] = round(seconds, 6)
        if code:
            fields["code"] = code
        self._write_line(fields)
        self._observe(fields["method"], route, fields["status"], seconds)


def _write_by_structlog(fields: dict[str, Any]) -> None:
    structlog.get_logger(LOGGER).info("request", **fields)


class _Body:
    """An answer's body that tells when it has been sent or given up."""

    def __init__(self, chunks: Iterable[bytes], on_close: Callable[[], None]) -> None:
        self._chunks = chunks
        self._on_close = on_close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def close(self) -> None:
        """WSGI servers call it when they are done with the body, complete or not."""
        try:
            if hasattr(self._chunks, "close"):
                self._chunks.close()
        finally:
            self._on_close()
