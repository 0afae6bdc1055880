"""Checkpoints of an SQLite registry, by this package alone, so that any other write is noticed."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, TypeAlias

_log: Final = logging.getLogger(__name__)

LONG_LOG: Final = 4 * 2**20
"""Bytes of write-ahead log from which on a commit is followed by a checkpoint, as in SQLite."""

PRAGMAS: Final = ("PRAGMA wal_autocheckpoint = 0", "PRAGMA journal_size_limit = 0")
"""Of every connection: no checkpoint but ours, and a log that is short again after it."""

_TRIES: Final = 100
_PAUSE: Final = 0.05
"""Seconds after which a checkpoint of another process may have ended; it gets 5 in all."""

Content: TypeAlias = tuple[int, int] | None
"""Bytes and nanoseconds since 1970; None of a file that is not there."""


class Checkpoints:
    """Tells whether only checkpoints have written to the database file. Safe between threads.

    In WAL mode nothing but a checkpoint writes to it. Each of ours ends with a commit of
    ``user_version``, a mark of what the file is then; it goes into the write-ahead log, which
    somebody who overwrites the database does not reach. So a file that is as neither this process
    nor the mark knows it was written by somebody else.

    SQLite's own checkpoint with the last connection leaves nothing open that could disagree.

    The file is never opened here: to close it would free the locks that SQLite holds on it.
    Source: https://www.sqlite.org/wal.html; https://www.sqlite.org/howtocorrupt.html, 2.2
    """

    def __init__(self, path: Path) -> None:
        """Take the database as it is now."""
        self._path = path
        self._name = os.fspath(path)
        self._log_name = f"{path}-wal"
        self._content = _content(self._name)

    def note(self) -> None:
        """Take the database as it is now: this process opens it."""
        self._content = _content(self._name)

    def explain(self) -> bool:
        """Whether checkpoints explain what the file is now. Ask while connections are open."""
        for _ in range(_TRIES):
            if self._content == _content(self._name):
                return True
            with _exclusive(self._path.parent) as nobody_else:
                now = _content(self._name)
                if self._is_marked(now):
                    self._content = now
                if nobody_else:
                    return self._content == now
            time.sleep(_PAUSE)
        return False

    def run_if_due(self, connection: sqlite3.Connection) -> None:
        """Move a long log into the database, and mark what that is then.

        Where another process does so already, it is left to that one.

        Args:
            connection: One that is in no transaction.
        """
        if _size(self._log_name) < LONG_LOG:
            return
        try:
            with _exclusive(self._path.parent) as nobody_else:
                if nobody_else and self._content == _content(self._name):
                    self._run(connection)
        except sqlite3.Error:
            _log.warning("the registry's log cannot be shortened now", exc_info=True)

    def _run(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._content = now = _content(self._name)
        if now is not None:
            connection.execute(f"PRAGMA user_version = {mark(now)}")

    def _is_marked(self, content: Content) -> bool:
        try:
            with closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True)) as connection:
                (found,) = connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error:
            return False  # what was written is no database
        return content is not None and found == mark(content)


@contextmanager
def _exclusive(directory: Path) -> Iterator[bool]:
    """Exclude the checkpoints of other processes; False where one may be under way."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def mark(content: tuple[int, int]) -> int:
    """Return a number that fits ``user_version``, 32 bits with a sign."""
    return zlib.crc32(repr(content).encode()) & 0x7FFFFFFF


def _content(name: str) -> Content:
    try:
        status = os.stat(name)  # noqa: PTH116 - a third of pathlib's time, in each read
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _size(name: str) -> int:
    try:
        return os.stat(name).st_size  # noqa: PTH116 - as above
    except OSError:
        return 0
