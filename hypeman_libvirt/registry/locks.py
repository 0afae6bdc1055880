"""Locks on devices and domains that hold between threads and between processes.

``flock(2)`` on one file a key. The kernel lets go of a lock when the last descriptor of its file
is closed, so a process that is killed leaves nothing locked.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from hypeman_libvirt.devices.errors import BusyError, RegistryUnavailableError

_READABLE: Final = ":.@"
"""Part of file names, so that ``lslocks`` says which device an operation works on."""


class FileLocks:
    """Locks by key, in a directory of files.

    Each hold opens its files anew, so two threads of one process exclude each other as two
    processes do.
    """

    def __init__(self, directory: Path) -> None:
        """Take the directory; it is made with the first lock, for this user alone.

        Args:
            directory: On a local file system, and the same for every process that may change
                the host.
        """
        self._directory = directory

    def hold(self, keys: Collection[str]) -> HeldFiles:
        """Lock all keys or none of them, without waiting.

        Raises:
            BusyError: Another operation holds one of them.
            RegistryUnavailableError: The files cannot be made.
        """
        held = HeldFiles()
        with ExitStack() as undo:
            undo.callback(held.release)
            try:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                taken = self._take_all(held, keys)
            except OSError as error:
                raise RegistryUnavailableError(
                    f"locks cannot be kept in {self._directory}: {error.strerror}"
                ) from error
            if taken is not None:
                raise BusyError(
                    f"another operation on {taken} is running",
                    hint="try again when it has come back",
                )
            undo.pop_all()
        return held

    def _take_all(self, held: HeldFiles, keys: Collection[str]) -> str | None:
        """Take all in one order, so that one of two rivals gets all; return what is taken."""
        return next((key for key in sorted(set(keys)) if not held.take(self._path(key))), None)

    def _path(self, key: str) -> Path:
        return self._directory / _file_name(key)


class HeldFiles:
    """Locks that are held until ``release``, which any thread may call."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._files: list[tuple[int, Path]] = []
        self._releasing = threading.Lock()

    def take(self, path: Path) -> bool:
        """Lock one more file; False if another holder has it locked."""
        descriptor = _lock(path)
        if descriptor is None:
            return False
        self._files.append((descriptor, path))
        return True

    def release(self) -> None:
        """Let go of all locks; a second time does nothing.

        Each file goes before its lock does, or every domain there ever was would leave one. Only
        who has the lock of the file at the path removes it, so it is never another one's.
        """
        with self._releasing:
            files, self._files = self._files, []
        for descriptor, path in files:
            with suppress(OSError):
                if _is_at(path, descriptor):
                    path.unlink()
            os.close(descriptor)

    def __enter__(self) -> Self:
        """Hold for the length of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release at its end."""
        self.release()


def lock_directory(location: str, state: Path, host: str) -> Path:
    """Return where the locks on a host's devices are.

    Args:
        location: Of the registry: path of an SQLite file, or a SQLAlchemy URL.
        state: Directory for a registry that is no file.
        host: Key of the host.
    """
    if "://" in location:
        return state / "locks" / _file_name(host)
    return Path(f"{location}.locks").absolute()


def _lock(path: Path) -> int | None:
    """Open and lock the file at the path; None if another holder has it locked.

    Who had it locked may have removed the file between our open and our lock. What we locked then
    is no longer what others open, so it is done again.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return _identity(path.stat()) == _identity(os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _file_name(key: str) -> str:
    return quote(key.replace(" ", "-"), safe=_READABLE)
