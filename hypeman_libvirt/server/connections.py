"""The connections of a server that does not show them: their sockets, as the kernel has them."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from heapq import nlargest
from typing import Final, TypeAlias

from hypeman_libvirt.server.bounds import AT_ONCE, NEW

Peer: TypeAlias = tuple[str, str]
"""Address and port, both in text, as in an ASGI scope."""

_FILES: Final = "/proc/self/fd"
_INT: Final = struct.Struct("i")
_LAST_DATA_RECEIVED: Final = struct.Struct("52xI")
"""Of ``struct tcp_info``, in milliseconds. Source: the kernel's include/uapi/linux/tcp.h."""


class Connections:
    """What was accepted on one listening socket.

    A connection is shut down through a duplicate of its descriptor, so that whoever owns it sees
    its end and closes it, and no descriptor is closed that another thread has got meanwhile.
    """

    def __init__(self, listener: socket.socket, most: int) -> None:
        """Accept nothing; another one does.

        Args:
            listener: Bound.
            most: Connections; beyond, the longest idle ones make room.
        """
        self._family = listener.family
        self._name = _own_name(listener)
        self._most = most

    def make_room(self, busy: Collection[Peer]) -> None:
        """End connections where there are too many: those first that asked longest ago.

        Args:
            busy: Whose requests are being answered; they stay.
        """
        if self._family == socket.AF_UNIX or len(os.listdir(_FILES)) <= self._most:  # noqa: PTH208
            return
        with ExitStack() as stack:
            connections = [stack.enter_context(each) for each in self._list()]
            surplus = len(connections) - self._most
            if surplus > 0:
                idle = [(_idle_seconds(each), each) for each in connections]
                free = [each for each in idle if each[0] > NEW and _peer(each[1]) not in busy]
                spare = min(AT_ONCE, self._most // 10)
                for _, connection in nlargest(surplus + spare, free, key=lambda each: each[0]):
                    _end(connection)

    def end_all(self) -> None:
        """End every connection."""
        for connection in self._list():
            with connection:
                _end(connection)

    def are_sending(self) -> bool:
        """Whether anything of an answer has not been taken by its client yet."""
        with ExitStack() as stack:
            return any(_unsent(stack.enter_context(each)) for each in self._list())

    def is_listening(self) -> bool:
        """Whether any descriptor of this process still listens there."""
        sockets = list(self._list(listening=True))
        for each in sockets:
            each.close()
        return bool(sockets)

    def _list(self, *, listening: bool = False) -> Iterator[socket.socket]:
        """Yield duplicates, to be closed by the caller."""
        for name in os.listdir(_FILES):  # noqa: PTH208
            connection = _duplicate(int(name))
            if connection is not None and self._is_ours(connection, listening):
                yield connection
            elif connection is not None:
                connection.close()

    def _is_ours(self, connection: socket.socket, listening: bool) -> bool:
        with suppress(OSError):
            listens = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            return bool(listens) is listening and _own_name(connection) == self._name
        return False


def _duplicate(descriptor: int) -> socket.socket | None:
    """Return a socket of one's own; None for what is none, or gone."""
    with suppress(OSError):
        copy = os.dup(descriptor)
        try:
            return socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
    return None


def _own_name(connection: socket.socket) -> object:
    """Return the port, or the path of a Unix socket: what all of one listener share."""
    name = connection.getsockname()
    return (connection.family, name[1] if isinstance(name, tuple) else name)


def _peer(connection: socket.socket) -> Peer | None:
    with suppress(OSError):
        address, port, *_ = connection.getpeername()
        return address, str(port)
    return None


def _idle_seconds(connection: socket.socket) -> float:
    with suppress(OSError):
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED.size)
        (milliseconds,) = _LAST_DATA_RECEIVED.unpack(info)
        return float(milliseconds) / 1000
    return 0.0


def _unsent(connection: socket.socket) -> int:
    """Return the bytes that the kernel holds for the peer. Source: tcp(7), SIOCOUTQ."""
    with suppress(OSError):
        (held,) = _INT.unpack(fcntl.ioctl(connection, termios.TIOCOUTQ, _INT.pack(0)))
        return int(held)
    return 0


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
