"""One event per line: JSON for the journal, key=value for a terminal."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from typing import TextIO, cast

import structlog
from structlog.typing import Processor

from hypeman_libvirt.rest import access_log


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
            requests if requests and name == access_log.LOGGER else _Lenient(stream), name
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
