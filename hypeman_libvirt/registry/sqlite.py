"""What only SQLite needs: its file, its modes, its health."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, PoolProxiedConnection, QueuePool, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from hypeman_libvirt.devices.errors import RegistryUnavailableError
from hypeman_libvirt.registry import checkpoints
from hypeman_libvirt.registry.errors import RegistryOpenError, reason
from hypeman_libvirt.registry.files import RegistryFiles

_log: Final = logging.getLogger(__name__)

LOCK_TIMEOUT: Final = 5.0
"""Seconds that a connection waits for another one's lock."""

_FILES: Final = "hypeman_registry_files"

_SETTLED: Final = 2_500_000_000
"""Nanoseconds after which a file's time of change is final: some file systems count seconds."""

_UNFINISHED: Final = {sqlite3.SQLITE_READONLY_ROLLBACK, sqlite3.SQLITE_READONLY_RECOVERY}
"""A process died within a transaction; SQLite takes it back once the file is opened to write."""


def create(path: Path) -> None:
    """Make directory (mode 0700) and file (mode 0600) where they are missing.

    Raises:
        RegistryOpenError: They cannot be made.
    """
    if path.is_dir():
        raise RegistryOpenError(f"registry {path} is a directory; name a file in it")
    try:
        if not path.parent.is_dir():
            path.parent.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            _sync_directory(path.parent)
    except OSError as error:
        raise RegistryOpenError(
            f"registry {path} cannot be created: {error.strerror}; "
            "make its directory writable for this user, or name another place with --registry"
        ) from error


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Prevent other processes from opening the registry meanwhile.

    The change to WAL does not wait for another connection's lock as SQLite's other calls do.

    Raises:
        RegistryOpenError: This user may not read the directory.
    """
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _refusal(path, f"{path.parent}: {error.strerror}") from error
    try:
        _lock(directory, path.parent)
        yield
    finally:
        os.close(directory)


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.warning("waiting for who holds %s locked; lslocks says who does", directory)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def check(path: Path) -> None:
    """Read the whole file without writing to it.

    Raises:
        RegistryOpenError: It is damaged, not a database or not readable.
    """
    try:
        findings = _quick_check(path, "ro")
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) not in _UNFINISHED:
            raise _refusal(path, reason(error, f"SQLite says: {error}")) from error
        findings = _quick_check(path, "rw")
    if findings != "ok":
        raise _refusal(path, f"its file is damaged ({findings}); restore a backup")


def engine(path: Path, lock_timeout: float) -> Engine:
    """Return an engine on an existing file; it never creates one.

    Transactions are begun in words (``BEGIN IMMEDIATE``), so that reading takes no write lock.
    """
    files = RegistryFiles(path)

    def connect() -> sqlite3.Connection:
        files.check()
        with ExitStack() as undo:
            connection = undo.enter_context(closing(_connect(path, "rw", lock_timeout)))
            for pragma in ("PRAGMA synchronous = FULL", *checkpoints.PRAGMAS):
                connection.execute(pragma)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
            undo.pop_all()
            return connection

    made = create_engine(
        "sqlite://",
        creator=connect,
        poolclass=QueuePool,
        max_overflow=-1,
        execution_options={_FILES: files},
    )
    event.listen(made, "connect", lambda connection, _: files.opened(connection))
    event.listen(made, "checkout", lambda connection, *_: files.check(connection))
    event.listen(made, "checkin", lambda connection, _: files.returned(connection))
    event.listen(made, "close", lambda connection, _: files.closing(connection))
    return made


def files_of(engine: Engine) -> RegistryFiles:
    """Return the files of an engine that ``engine`` has made."""
    files: RegistryFiles = engine.get_execution_options()[_FILES]
    return files


class Version:
    """Says whether a registry is still what it was, without reading it.

    Every commit writes to the write-ahead log, so while that file's time stands, nothing has
    changed; asking SQLite costs several times as much. A time that is so recent that the kernel
    may give it to the next write as well decides nothing, and SQLite is asked.

    Source: https://www.sqlite.org/pragma.html#pragma_data_version; the number is one connection's
    own, and changes with what any other one commits.
    """

    def __init__(
        self,
        engine: Engine,
        now: Callable[[], int] = time.time_ns,
        before_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """Ask over a connection of its own, which is opened when first needed.

        Args:
            engine: Opens it.
            now: Nanoseconds since 1970.
            before_waiting: Is called before SQLite is asked; see NonBlocking.
        """
        self._before_waiting = before_waiting
        self._engine = engine
        self._files = files_of(engine)
        self._now = now
        self._lock = threading.Lock()
        self._connection: PoolProxiedConnection | None = None
        self._opened = 0
        self._log: Path | None = None
        self._known: tuple[tuple[int, int, int], tuple[int, int]] | None = None

    def read(self) -> tuple[int, int] | None:
        """Return what is different after each change; None where it cannot be known.

        Raises:
            RegistryUnavailableError: A file is another one than was opened, or gone.
        """
        self._check()
        stamp, known = self._stamp(), self._known
        if known is not None and known[0] == stamp:
            return known[1]
        self._before_waiting()
        with self._lock:
            try:
                number = self._ask()
            except (sqlite3.Error, SQLAlchemyError):
                self._drop()
                return None
            version = self._opened, number
            self._known = (stamp, version) if stamp else None
            return version

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._drop()

    def _check(self) -> None:
        """Refuse what the files are not, once an open connection has saved what it sees."""
        try:
            self._files.check()
        except RegistryUnavailableError:
            self._before_waiting()
            with self._lock:
                held = self._connection and self._connection.dbapi_connection
                if isinstance(held, sqlite3.Connection):
                    self._files.check(held)
            self._engine.raw_connection().close()  # checked, too, when it leaves the pool
            raise

    def _stamp(self) -> tuple[int, int, int] | None:
        """Return what every write to the log changes; None if the next one may not."""
        if self._log is None:
            return None
        try:
            log = self._log.stat()
        except OSError:
            return None
        settled = self._now() - log.st_mtime_ns > _SETTLED
        return (log.st_ino, log.st_size, log.st_mtime_ns) if settled else None

    def _ask(self) -> int:
        if self._connection is None:
            self._connection = self._engine.raw_connection()
            self._opened += 1
            (_, _, file) = _fetch_row(self._connection, "PRAGMA database_list")
            self._log = Path(f"{file}-wal")
        (number,) = _fetch_row(self._connection, "PRAGMA data_version")
        return int(number)

    def _drop(self) -> None:
        self._known = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()


def _fetch_row(connection: PoolProxiedConnection, pragma: str) -> Any:  # noqa: ANN401 - a row
    cursor = connection.cursor()
    cursor.execute(pragma)
    return cursor.fetchall()[0]


def use_wal(path: Path) -> None:
    """Let readers and the writer go on side by side; the file remembers it.

    Raises:
        RegistryOpenError: The file system has no shared memory, as NFS.
    """
    try:
        with closing(_connect(path, "rw")) as connection:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    except sqlite3.Error as error:
        raise _refusal(path, reason(error, f"SQLite says: {error}")) from error
    if mode != "wal":
        raise _refusal(path, "its file system is none for SQLite's WAL; use a local one")


def back_up(path: Path, revision: str) -> None:
    """Copy the registry beside itself before its schema changes, mode 0600."""
    copy = path.with_name(f"{path.name}.schema-{revision}")
    copy.unlink(missing_ok=True)
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with closing(_connect(path, "ro")) as source, closing(_connect(copy, "rw")) as target:
        source.backup(target)


def _connect(path: Path, mode: str, lock_timeout: float = LOCK_TIMEOUT) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        timeout=lock_timeout,
        isolation_level=None,
        check_same_thread=False,  # the pool gives a connection to one thread at a time
    )


def _quick_check(path: Path, mode: str) -> str:
    with closing(_connect(path, mode)) as connection:
        (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        return str(finding)


def _refusal(path: Path, because: str) -> RegistryOpenError:
    return RegistryOpenError(
        f"registry {path} cannot be used: {because}. It was left as it is; "
        "to start with an empty one, move it away"
    )


def _sync_directory(directory: Path) -> None:
    """Make the new file's entry survive a power loss; SQLite does so for its journals only."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
