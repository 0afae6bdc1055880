"""The helper's socket: one request a connection, so many connections, and an end when idle."""

from __future__ import annotations

import logging
import socket
import struct
import threading
from dataclasses import dataclass
from typing import Final

from hypeman_libvirt.devices.errors import BusyError
from hypeman_libvirt.helper.protocol import LONGEST_LINE, Answer, Problem, write_line
from hypeman_libvirt.helper.responder import Peer, Responder

_log: Final = logging.getLogger(__name__)
_PEER: Final = struct.Struct("3i")
"""pid, uid and gid. Source: socket(7) and unix(7), SO_PEERCRED."""


@dataclass(frozen=True, slots=True)
class HelperLimits:
    """How much of the helper clients may have.

    Attributes:
        patience: Seconds that a client has to send its request.
        at_once: Connections.
        idle: Seconds without work after which the helper ends; systemd starts it again.
    """

    patience: float = 5.0
    at_once: int = 16
    idle: float = 60.0


class HelperServer:
    """Accepts connections on a listening socket until it is idle."""

    def __init__(
        self, listener: socket.socket, responder: Responder, limits: HelperLimits | None = None
    ) -> None:
        """Have requests answered by the responder.

        Args:
            listener: A Unix stream socket that listens.
            responder: Answers.
            limits: None for those of a host.
        """
        self._listener = listener
        self._responder = responder
        self._limits = limits or HelperLimits()
        self._lock = threading.Lock()
        self._connections = 0

    def serve_until_idle(self) -> None:
        """Accept connections until none came for a while and no work is under way."""
        self._listener.settimeout(self._limits.idle)
        while True:
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                if not self._connections and self._responder.is_idle:
                    return
                continue
            is_full = self._count(1) > self._limits.at_once
            threading.Thread(target=self._serve, args=(connection, is_full), daemon=True).start()

    def _count(self, step: int) -> int:
        with self._lock:
            self._connections += step
            return self._connections

    def _serve(self, connection: socket.socket, is_full: bool) -> None:
        try:
            with connection:
                connection.settimeout(self._limits.patience)
                connection.sendall(write_line(self._answer(connection, is_full=is_full)))
        except OSError as error:
            _log.warning("a client went away: %s", error)
        finally:
            self._count(-1)

    def _answer(self, connection: socket.socket, *, is_full: bool) -> Answer:
        if is_full:
            message = "the root helper has too many clients; try again"
            return Answer(problem=Problem(code=BusyError.code, message=message))
        peer = peer_of(connection)
        return self._responder.answer(_read_line(connection), peer)


def peer_of(connection: socket.socket) -> Peer:
    """Return who is at the other end, as the kernel says."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, uid, _ = _PEER.unpack(credentials)
    return Peer(pid, uid)


def _read_line(connection: socket.socket) -> bytes:
    """Read up to the end of a line; what is longer than a request is none."""
    line = b""
    while b"\n" not in line and len(line) <= LONGEST_LINE:
        more = connection.recv(LONGEST_LINE)
        if not more:
            break
        line += more
    return line.partition(b"\n")[0] if len(line) <= LONGEST_LINE else b""
