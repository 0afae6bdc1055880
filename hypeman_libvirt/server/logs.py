"""One event per line: JSON for the journal, key=value for a terminal."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, TextIO, TypeAlias, cast
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import structlog
from structlog.typing import Processor

ObserveRequest: TypeAlias = Callable[[str, str | None, int, float], None]
"""Is told the method, the template of the path (None for no path of ours), status and seconds."""

_ACCESS: Final = "hypeman_libvirt.access"
_log: Final = structlog.get_logger(_ACCESS)


class _Lenient:
    """A stream that loses what it cannot write: a full disk stops the log, and nothing else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


class HeldLines:
    """Lines of the log that wait until somebody has time to write them, all at once.

    A thread that writes lets the others run first, and then waits for its turn: with many clients
    that took as long as answering.
    """

    def __init__(self, stream: TextIO) -> None:
        """Hold lines for this stream."""
        self._stream = _Lenient(stream)
        self._held: deque[str] = deque()

    def write(self, line: str) -> None:
        """Hold a line, from any thread."""
        self._held.append(line)

    def flush(self) -> None:
        """Do nothing; loggers call it after each line."""

    def release(self) -> None:
        """Write what is held."""
        lines = [self._held.popleft() for _ in range(len(self._held))]
        if lines:
            self._stream.write("".join(lines))
            self._stream.flush()


def configure(stream: TextIO, requests: HeldLines | None = None) -> None:
    """Send the log of everything, libraries and Python's warnings included, to the stream.

    What structlog logs goes there by itself: the way through ``logging`` takes three times as
    long, and each request has its line.

    Args:
        stream: Where to.
        requests: Holds the lines of requests; None if they shall be written at once.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers = _renderers(for_people=stream.isatty())
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda name="hypeman_libvirt": _Lines(
            requests if requests and name == _ACCESS else _Lenient(stream), name
        ),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of its plugins
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a line for each that queues
    logging.captureWarnings(capture=True)


class _Lines(structlog.WriteLogger):
    """Writes lines, and has the name that ``add_logger_name`` looks for."""

    def __init__(self, stream: _Lenient | HeldLines, name: str) -> None:
        super().__init__(cast("TextIO", stream))
        self.name = name


def _renderers(*, for_people: bool) -> list[Processor]:
    if for_people:
        # The default formatter prints local variables, a token among them.
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


class AccessLog:
    """Writes a line for each request once its answer has been sent; never a header or a body."""

    def __init__(
        self,
        app: WSGIApplication,
        observe: ObserveRequest,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wrap the app that answers.

        Args:
            app: Answers.
            observe: Is told of each request, when its answer has been sent.
            monotonic: Seconds that never go back.
        """
        self._app = app
        self._observe = observe
        self._monotonic = monotonic

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

        def write_line() -> None:
            seconds, method = self._monotonic() - started, environ["REQUEST_METHOD"]
            code = environ.get("hypeman.error")
            _log.info(
                "request",
                request_id=answer["request_id"],
                subject=environ.get("hypeman.subject"),
                method=method,
                path=environ["PATH_INFO"],
                status=answer["status"],
                seconds=round(seconds, 6),
                **({"code": code} if code else {}),
            )
            self._observe(method, environ.get("hypeman.route"), answer["status"], seconds)

        try:
            return _Body(self._app(environ, remember), write_line)
        except BaseException:
            write_line()
            raise


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
