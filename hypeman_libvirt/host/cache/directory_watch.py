"""Which files of a directory were changed, as the kernel reports: inotify, without waiting.

The kernel queues an event within the system call that makes the change. So whatever was changed by
a call that has returned is in the queue by then, or the queue says that it has overflowed.

Source: inotify(7); fsnotify_move() and its like in the kernel's include/linux/fsnotify.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
import weakref
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final, TypeAlias

_MODIFY, _ATTRIB, _CLOSE_WRITE = 0x2, 0x4, 0x8
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_ANY_CHANGE: Final = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_EVENT: Final = struct.Struct("iIII")
_BUFFER: Final = 65536


ReadChanges: TypeAlias = Callable[[tuple[int, int]], Collection[str] | None]
"""Returns which names were changed since the last call, of the directory that has this device and
inode; None if that is not known."""


class DirectoryWatch:
    """Reports which entries of one directory were changed. Not safe between threads.

    A process that was forked watches anew: its queue is its parent's, who empties it.
    """

    def __init__(self, directory: Path) -> None:
        """Watch nothing yet."""
        self._directory = directory
        self._identity: tuple[int, int] | None = None
        self._process = os.getpid()
        self._queue: int | None = None
        self._close: Callable[[], object] = lambda: None

    def read(self, identity: tuple[int, int]) -> frozenset[str] | None:
        """Return the names that were changed since the last call; None if that is not known.

        It is not in a first call, nor where another directory has taken the place, nor where there
        is no inotify; changes are watched from then on, if they can be.

        Args:
            identity: The device and inode that the directory has.
        """
        try:
            if self._queue is not None and self._is_of(identity):
                names = list(_read_names(self._queue))
                if None not in names:
                    return frozenset(name for name in names if name)
            self._open()
        except OSError:
            self._drop()
        return None

    def _is_of(self, identity: tuple[int, int]) -> bool:
        return self._identity == identity and self._process == os.getpid()

    def _open(self) -> None:
        """Watch the very directory whose identity is noted, whatever happens to its name."""
        self._drop()
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "inotify_init1"):
            return
        queue = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._close = weakref.finalize(self, os.close, queue)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            path = f"/proc/self/fd/{directory}".encode()
            _checked(libc.inotify_add_watch(queue, path, _ANY_CHANGE))
            stat = os.fstat(directory)
        finally:
            os.close(directory)
        self._queue, self._identity = queue, (stat.st_dev, stat.st_ino)
        self._process = os.getpid()

    def _drop(self) -> None:
        self._queue = self._identity = None
        self._close()


def _read_names(queue: int) -> Iterator[str | None]:
    """Empty the queue; None stands for events that were lost."""
    while True:
        try:
            events = os.read(queue, _BUFFER)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(events):
            _, mask, _, length = _EVENT.unpack_from(events, offset)
            offset += _EVENT.size + length
            yield (
                None
                if mask & (_OVERFLOW | _IGNORED)
                else os.fsdecode(events[offset - length : offset].rstrip(b"\0"))
            )


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    return result
