"""Whether the files of an SQLite registry are still those that were opened."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import threading
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Final, TypeAlias

from hypeman_libvirt.devices.errors import RegistryUnavailableError
from hypeman_libvirt.registry.checkpoints import Checkpoints

_log: Final = logging.getLogger(__name__)

Identity: TypeAlias = tuple[int, int] | None
"""Device and inode; None of a file that is not there."""

_MISSING: Final = (
    "the registry cannot be used: its file cannot be opened; check that it is there and its mode"
)
_REPLACED: Final = "its file was replaced"
_OVERWRITTEN: Final = "its file was overwritten"
_DELETED: Final = "its -wal or -shm file was deleted or replaced"


class RegistryFiles:
    """The database, its write-ahead log and its shared memory. Safe between threads.

    SQLite goes on with a file that was deleted or replaced: what it commits then is seen by
    no other process and is gone at the end. A file that was overwritten in place it takes for what
    it has read, and mixes both. So whatever is not as it was opened is refused for the rest of the
    process; a database that is missing for a while is refused meanwhile.

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
        self._checkpoints = Checkpoints(path)
        self._damage: str | None = None
        self._copy: Path | None = None

    def opened(self, connection: sqlite3.Connection) -> None:
        """Count a connection that has read already, for which SQLite makes the journals."""
        with self._lock:
            if not self._connections:
                self._journals = self._read_journals()
                self._checkpoints.note()
            self._connections.add(id(connection))

    def closing(self, connection: sqlite3.Connection) -> None:
        """Count a connection no more; with the last one SQLite writes the log into the database."""
        with self._lock:
            if self._connections == {id(connection)} and not self._is_unmixed():
                self._keep_the_log_out()
            self._connections.discard(id(connection))

    def returned(self, connection: sqlite3.Connection | None) -> None:
        """Shorten the log, if it is long, over a connection whose use has ended."""
        if connection is not None and self._damage is None:
            self._checkpoints.run_if_due(connection)

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
        elif not self._is_as_written():
            self._damage = _OVERWRITTEN
            self._remove_journals_of_the_old()
        elif not self._has_its_journals():
            self._damage = _DELETED
        if self._damage is not None:
            _log.error("the registry cannot be used: %s while the service runs", self._damage)
        return self._damage

    def _is_as_written(self) -> bool:
        has_log = bool(self._connections) and self._journals[0] is not None
        return not has_log or self._checkpoints.explain()

    def _is_unmixed(self) -> bool:
        if self._damage is not None:
            return self._damage != _OVERWRITTEN
        return _identity(self._names[0]) != self._database or self._is_as_written()

    def _has_its_journals(self) -> bool:
        with self._lock:
            return not self._connections or self._journals == self._read_journals()

    def _read_journals(self) -> tuple[Identity, ...]:
        return tuple(map(_identity, self._names[1]))

    def _save_once(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if self._copy is not None or self._damage == _OVERWRITTEN:
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
        elif damage == _OVERWRITTEN:
            cure = (
                "Stop the service, put the right file there without -wal and -shm, bring back what "
                "domains note of their devices with hypeman-libvirt registry import"
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

    def _keep_the_log_out(self) -> None:
        """Prevent SQLite from writing its log into a database that somebody has overwritten.

        It does so with its last connection, but not once another file is at the path.
        Source: SQLITE_FCNTL_HAS_MOVED in https://www.sqlite.org/c3ref/c_fcntl_begin_atomic_write.html
        """
        path = Path(self._names[0])
        copy = path.with_name(f"{path.name}.overwritten")
        try:
            shutil.copy2(path, copy)
            copy.replace(path)
            self._remove_journals_of_the_old()
        except OSError:
            _log.exception("what the registry was overwritten with may be mixed with what it was")


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
