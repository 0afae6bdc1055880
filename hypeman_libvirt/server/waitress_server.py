"""waitress on one socket, until a signal; then what was begun is finished."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection
from heapq import nsmallest
from typing import Any, Final
from wsgiref.types import WSGIApplication

import structlog
from waitress import wasyncore
from waitress.server import create_server

from hypeman_libvirt.server.bounds import (
    AT_ONCE,
    BODY_LIMIT,
    GRACE,
    HEAD_LIMIT,
    NEW,
    ROOM,
    with_files_for,
)
from hypeman_libvirt.server.channels import Channel, Dispatcher

_IN_MEMORY: Final = 64 * 1024
"""Bytes of a body that wait in memory; a longer one waits in a file."""
_TURN: Final = 0.5
"""Seconds after which the loop looks around when nothing happens."""

_log: Final = structlog.get_logger(__name__)


class WaitressServer:
    """Answers requests on a socket that listens."""

    def __init__(
        self,
        app: WSGIApplication,
        listener: socket.socket,
        *,
        threads: int,
        grace: float,
        on_stop: Callable[[], None],
        never_wait: Collection[str] = (),
        connections: int = 1000,
        request_timeout: float = 30.0,
        idle_timeout: int = 60,
    ) -> None:
        """Begin to accept; nothing is answered before ``run``.

        Args:
            app: What answers.
            listener: Bound; closed at the end.
            threads: How many requests are answered at once.
            grace: Seconds that running requests have at the end.
            on_stop: Called at the end, before running requests are awaited.
            never_wait: Paths that never wait; they are answered whatever hangs.
            connections: How many clients may be connected; the longest idle ones make room.
            request_timeout: Seconds that a request has to come in whole.
            idle_timeout: Seconds after which a connection that asks for nothing is closed.
        """
        self._most = with_files_for(connections)
        self._spare = min(AT_ONCE, self._most // 10)
        self._request_timeout = request_timeout
        self._sockets: dict[int, Any] = {}
        server: Any = create_server(
            app,
            map=self._sockets,
            sockets=[listener],
            _dispatcher=Dispatcher(threads, never_wait),
            ident="hypeman-libvirt",
            max_request_header_size=HEAD_LIMIT,
            inbuf_overflow=_IN_MEMORY,
            max_request_body_size=BODY_LIMIT,
            channel_timeout=idle_timeout,
            connection_limit=self._most + ROOM,  # above it waitress would accept nobody at all
        )
        server.channel_class = Channel
        self._server = server
        self._grace = grace
        self._on_stop = on_stop
        self._stopping = False
        self._next_look = 0.0

    def run(self) -> None:
        """Serve until ``stop``, then finish the requests that run."""
        while not self._stopping:
            self._turn()
        wasyncore.dispatcher.close(self._server)  # the listening socket alone
        self._on_stop()
        self._request_timeout = min(
            self._request_timeout, GRACE
        )  # who reads nothing is not awaited
        deadline = time.monotonic() + self._grace
        while self._is_answering() and time.monotonic() < deadline:
            self._turn()
        if self._is_answering():
            _log.warning("stopped before every request was answered", waited_seconds=self._grace)
        self._server.task_dispatcher.shutdown(timeout=_TURN)
        wasyncore.close_all(self._sockets)

    def stop(self) -> None:
        """Make ``run`` come to its end; from any thread or signal handler."""
        if not self._stopping:
            self._server.pull_trigger()  # in this order: once the loop has ended, it is closed
            self._stopping = True

    def _turn(self) -> None:
        wasyncore.loop(timeout=_TURN, use_poll=True, map=self._sockets, count=1)
        self._close_slow()
        self._make_room()

    def _close_slow(self) -> None:
        """Close who sends a request a byte at a time, or reads no answer, to stay for ever."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _TURN
        for channel in self._channels():
            if channel.is_stuck(self._request_timeout):
                channel.handle_close()  # at once: will_close waits until the peer reads

    def _make_room(self) -> None:
        """Close connections where there are too many: those go first that asked longest ago."""
        surplus = len(self._server.active_channels) - self._most
        if surplus > 0:
            before = time.monotonic() - NEW
            free = [
                each for each in self._channels() if not each.requests and each.idle_since < before
            ]
            for channel in nsmallest(surplus + self._spare, free, key=lambda each: each.idle_since):
                channel.handle_close()  # at once: will_close waits until the peer reads

    def _channels(self) -> list[Channel]:
        return list(self._server.active_channels.values())

    def _is_answering(self) -> bool:
        return any(channel.is_answering for channel in self._channels())
