"""One event per line: JSON for the journal, key=value for a terminal."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from io import StringIO
from typing import Any, Final, Protocol, TextIO, cast

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from hypeman_libvirt.printable import printable
from hypeman_libvirt.rest.access_log import LOGGER, WriteLine

_MOST_LINES: Final = 10_000
"""Lines that wait to be written; some 3 MB."""
_AT_ONCE: Final = 1000
"""Lines that are written with one call."""
_PAUSE: Final = 0.02
"""Seconds in which further lines may come, to be written with the first."""
_LAST_LINES: Final = 2.0
"""Seconds that the last lines have at the end."""
_LONGEST_FIELD: Final = 1000
"""Characters of a field; a path could have thousands."""


class LogWriter:
    """Writes lines in a thread of its own, so that no answer waits for who reads the log.

    A pipe that nobody reads, or a slow disk, holds up that thread alone. Lines wait up to a number;
    beyond, they are dropped, counted, and their number is a line of its own once there is room. A
    thread that writes also lets the others run first and then waits for its turn; so lines are
    written several at once.
    """

    def __init__(self, stream: TextIO, *, most: int = _MOST_LINES, pause: float = _PAUSE) -> None:
        """Begin to write.

        Args:
            stream: Has a file, which is written past the stream's buffers: a thread that hangs in
                a buffer would hold up the end of the process.
            most: Lines that wait; the next ones are dropped.
            pause: Seconds in which further lines may come, to be written with the first.
        """
        self._file = stream.fileno()
        self._for_people = stream.isatty()
        self._most = most
        self._pause = pause
        self._lines: deque[str] = deque()
        self._dropped = self._reported = 0
        self._counting = threading.Lock()
        self._has_lines = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many lines were dropped so far."""
        return self._dropped

    def write(self, line: str) -> None:
        """Have a line written, from any thread; never waits."""
        if len(self._lines) >= self._most:
            with self._counting:
                self._dropped += 1
            return
        self._lines.append(line)
        if not self._has_lines.is_set():
            self._has_lines.set()

    def flush(self) -> None:
        """Do nothing; loggers call it after each line."""

    def isatty(self) -> bool:
        """Whether a terminal shows it."""
        return self._for_people

    def close(self, timeout: float = _LAST_LINES) -> None:
        """Write what waits, unless that takes longer than so many seconds."""
        self._closing.set()
        self._has_lines.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._has_lines.wait()
            self._closing.wait(self._pause)
            self._has_lines.clear()  # before looking: what comes meanwhile sets it again
            self._write_waiting()
        self._write_waiting()

    def _write_waiting(self) -> None:
        while self._lines:
            lines = [self._lines.popleft() for _ in range(min(len(self._lines), _AT_ONCE))]
            with suppress(OSError):  # a full disk stops the log, and nothing else
                self._write_all("".join(lines).encode(errors="backslashreplace"))
        if self._dropped > self._reported:
            count, self._reported = self._dropped - self._reported, self._dropped
            structlog.get_logger(__name__).warning("lines of the log were dropped", count=count)

    def _write_all(self, text: bytes) -> None:
        while text:
            text = text[os.write(self._file, text) :]


def request_lines(stream: Stream) -> WriteLine | None:
    """Return what writes the line of a request as structlog does, in a fifth of the time.

    None for a terminal, where structlog lays lines out for people.
    """
    if stream.isatty():
        return None
    encode = json.JSONEncoder().encode

    def write(fields: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat().removesuffix("+00:00")
        fields |= {"event": "request", "level": "info", "logger": LOGGER, "timestamp": f"{now}Z"}
        stream.write(f"{encode(_cut_long_fields(None, '', fields))}\n")

    return write


def configure(stream: Stream) -> None:
    """Send the log of everything, libraries and Python's warnings included, to the stream.

    What structlog logs goes there by itself: the way through ``logging`` takes three times as
    long, and each request has its line.

    Args:
        stream: Where to.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers = _renderers(for_people=stream.isatty())
    structlog.configure(
        processors=[*shared, _cut_long_fields, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda name="hypeman_libvirt": _Lines(stream, name),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(cast("TextIO", stream))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), _cut_long_fields],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of its plugins
    logging.getLogger("_granian").setLevel(logging.WARNING)  # it tells of its workers
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a line for each that queues
    logging.captureWarnings(capture=True)


class Stream(Protocol):
    """What lines are written to."""

    def write(self, line: str, /) -> object:
        """Write a line."""

    def flush(self) -> object:
        """Let it leave."""

    def isatty(self) -> bool:
        """Whether a terminal shows it."""


class _Lines(structlog.WriteLogger):
    """Writes lines, and has the name that ``add_logger_name`` looks for."""

    def __init__(self, stream: Stream, name: str) -> None:
        super().__init__(cast("TextIO", stream))
        self.name = name


def _cut_long_fields(_logger: object, _method: str, fields: EventDict) -> EventDict:
    """Cut what a client chose the length of, such as a path."""
    for name, value in fields.items():
        if isinstance(value, str) and len(value) > _LONGEST_FIELD:
            more = len(value) - _LONGEST_FIELD
            fields[name] = f"{value[:_LONGEST_FIELD]}... and {more} characters more"
    return fields


def _escape_control_characters(_logger: object, _method: str, fields: EventDict) -> EventDict:
    """Escape what would move a terminal's cursor or set its title; JSON escapes by itself."""
    return {
        name: printable(value) if isinstance(value, str) else value
        for name, value in fields.items()
    }


def _renderers(*, for_people: bool) -> list[Processor]:
    if for_people:
        console = structlog.dev.ConsoleRenderer(exception_formatter=_write_traceback)
        return [_escape_control_characters, console]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _write_traceback(stream: TextIO, error: ExcInfo) -> None:
    """Write a traceback as Python does; the default shows local variables, a token among them."""
    text = StringIO()
    structlog.dev.plain_traceback(text, error)
    stream.write("\n".join(map(printable, text.getvalue().split("\n"))))
