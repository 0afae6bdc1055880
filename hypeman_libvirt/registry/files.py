"""Whether the files of an SQLite registry are still those that were opened."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Final, TypeAlias

from hypeman_libvirt.devices.errors import RegistryUnavailableError

_log: Final = logging.getLogger(__name__)

Identity: TypeAlias = tuple[int, int] | None
"""Device and inode; None of a file that is not there."""

_MISSING: Final = (
    "the registry cannot be used: its file cannot be opened; check that it is there and its mode"
)
_REPLACED: Final = "its file was replaced"
_DELETED: Final = "its -wal or -shm file was deleted or replaced"


class RegistryFiles:
    """The database, its write-ahead log and its shared memory. Safe between threads.

    SQLite goes on with a file that was deleted or replaced: what it commits then is seen by
    no other process and is gone at the end. So whatever is not as it was opened is refused for the
    rest of the process; a database that is missing for a while is refused meanwhile.

    SQLite itself deletes the log and the shared memory, but only with its last connection.
    Source: https://www.sqlite.org/walformat.html#walidxfmt; https://www.sqlite.org/howtocorrupt.html
    """

    def __init__(self, path: Path) -> None:
        """Take the database as it is now; it exists."""
        self._path = path
        self._names = os.fspath(path), (f"{path}-wal", f"{path}-shm")
        self._database = _identity(self._names[0])
        self._journals: tuple[Identity, ...] = ()
        self._connections: set[int] = set()
        self._lock = threading.Lock()
        self._damage: str | None = None
        self._copy: Path | None = None

    def opened(self, connection: sqlite3.Connection) -> None:
        """Count a connection that has read already, for which SQLite makes the journals."""
        with self._lock:
            if not self._connections:
                self._journals = self._read_journals()
            self._connections.add(id(connection))

    def closing(self, connection: sqlite3.Connection) -> None:
        """Count a connection no more; the last one may delete the journals."""
        with self._lock:
            self._connections.discard(id(connection))

    def check(self, connection: sqlite3.Connection | None = None) -> None:
        """Refuse reads and writes of what is not, or will not be, in the file.

        Args:
            connection: One that is not used at this moment; what it still sees is saved.

        Raises:
            RegistryUnavailableError: A file is another one than was opened, or gone.
        """
        damage = self._damage or self._find_damage()
        if damage is not None:
            if connection is not None:
                self._save_once(connection)
            raise RegistryUnavailableError(self._explain(damage))

    def _find_damage(self) -> str | None:
        database = _identity(self._names[0])
        if database is None:
            raise RegistryUnavailableError(_MISSING)
        if database != self._database:
            self._damage = _REPLACED
        elif not self._has_its_journals():
            self._damage = _DELETED
        if self._damage is not None:
            _log.error("the registry cannot be used: %s while the service runs", self._damage)
        return self._damage

    def _has_its_journals(self) -> bool:
        with self._lock:
            return not self._connections or self._journals == self._read_journals()

    def _read_journals(self) -> tuple[Identity, ...]:
        return tuple(map(_identity, self._names[1]))

    def _save_once(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if self._copy is not None:
                return
            self._copy = _save(connection, self._path)
            if self._copy is not None and self._damage == _REPLACED:
                self._remove_journals_of_the_old()
        _log.error("what the registry held is in %s", self._copy or "no copy")

    def _explain(self, damage: str | None) -> str:
        cure = "Stop the service, see to it that the right files are there"
        if self._copy is not None:
            cure = (
                f"What it held is in {self._copy}. Stop the service, put that in its place without "
                "-wal and -shm, or keep what is there"
            )
        return (
            f"the registry cannot be used: {damage} while the service runs. {cure}, "
            "and start it again"
        )

    def _remove_journals_of_the_old(self) -> None:
        """Prevent SQLite from putting the old database's log into the new one at the next start."""
        for name, known in zip(self._names[1], self._journals, strict=False):
            if known is not None and _identity(name) == known:
                Path(name).unlink()


def _save(connection: sqlite3.Connection, path: Path) -> Path | None:
    """Copy what a connection sees beside the registry, mode 0600; None if that fails."""
    for number in count(1):
        copy = path.with_name(f"{path.name}.saved-{number}")
        try:
            os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            continue
        except OSError:
            return None
        break
    try:
        with closing(sqlite3.connect(copy)) as target:
            connection.backup(target)
    except sqlite3.Error:
        _log.exception("what the registry held cannot be saved in %s", copy)
        with suppress(OSError):
            copy.unlink()
        return None
    return copy


def _identity(name: str) -> Identity:
    try:
        status = os.stat(name)  # noqa: PTH116 - a third of pathlib's time, thrice in each read
    except OSError:
        return None
    return status.st_dev, status.st_ino
