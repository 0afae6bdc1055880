"""waitress on one socket, until a signal; then what was begun is finished."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager, suppress
from heapq import nsmallest
from pathlib import Path
from typing import Any, Final
from wsgiref.types import WSGIApplication

import structlog
from waitress import wasyncore
from waitress.server import create_server

from hypeman_libvirt.bootstrap import (
    build_app,
    build_service,
    count_threads,
    create_auth,
    open_world,
)
from hypeman_libvirt.rest.requests import MAX_BODY
from hypeman_libvirt.rest.routes import NEVER_WAIT
from hypeman_libvirt.server import logs
from hypeman_libvirt.server.channels import Channel, Dispatcher
from hypeman_libvirt.settings import (
    Settings,
    SettingsError,
    is_local,
    split_listen,
    unknown_variables,
)

_BODY_LIMIT: Final = 2 * MAX_BODY
"""Bytes of a request that are read at all; the API itself allows less."""
_HEAD_LIMIT: Final = 32 * 1024
"""Bytes of a request line and headers; a token may be long."""
_IN_MEMORY: Final = 64 * 1024
"""Bytes of a body that wait in memory; a longer one waits in a file."""
_GRACE: Final = 5.0
"""Seconds, beyond those of the longest operation, for answers to leave at the end."""
_ROOM: Final = 200
"""Sockets and files beyond those of connections: the registry's, libvirt's, the log."""
_AT_ONCE: Final = 16
"""Connections that are closed beyond those that must be, at most, so that the next find room."""
_NEW: Final = 1.0
"""Seconds in which a connection is not closed for others: its request is on its way."""
_TURN: Final = 0.5
"""Seconds after which the loop looks around when nothing happens."""

_log: Final = structlog.get_logger(__name__)


class Server:
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
        self._most = _with_files_for(connections)
        self._spare = min(_AT_ONCE, self._most // 10)
        self._request_timeout = request_timeout
        self._sockets: dict[int, Any] = {}
        server: Any = create_server(
            app,
            map=self._sockets,
            sockets=[listener],
            _dispatcher=Dispatcher(threads, never_wait),
            ident="hypeman-libvirt",
            max_request_header_size=_HEAD_LIMIT,
            inbuf_overflow=_IN_MEMORY,
            max_request_body_size=_BODY_LIMIT,
            channel_timeout=idle_timeout,
            connection_limit=self._most + _ROOM,  # above it waitress would accept nobody at all
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
            self._request_timeout, _GRACE
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
            before = time.monotonic() - _NEW
            free = [
                each for each in self._channels() if not each.requests and each.idle_since < before
            ]
            for channel in nsmallest(surplus + self._spare, free, key=lambda each: each.idle_since):
                channel.handle_close()  # at once: will_close waits until the peer reads

    def _channels(self) -> list[Channel]:
        return list(self._server.active_channels.values())

    def _is_answering(self) -> bool:
        return any(channel.is_answering for channel in self._channels())


def _with_files_for(connections: int) -> int:
    """Raise the limit of open files if it is too low; return for how many connections it does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 2 * _ROOM
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(connections, max(1, soft - 2 * _ROOM))


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; a second one stops at once.

    Raises:
        SettingsError: There is no secret, or the address cannot be served on.
        RegistryOpenError: The registry cannot be used.
    """
    auth = create_auth(settings)
    with closing(logs.LogWriter(sys.stderr)) as log:
        logs.configure(log)
        world = open_world(settings)
        world.metrics.watch_log(lambda: log.dropped)
        with closing(build_service(settings, world)) as service:
            listener = listen(settings.listen)
            service.start_following()
            app = build_app(settings, world, service, auth)
            _run(settings, app, listener, service.event_feed.close)
        _log.info("stopped")


def _run(
    settings: Settings,
    app: WSGIApplication,
    listener: socket.socket,
    on_stop: Callable[[], None],
) -> None:
    server = Server(
        app,
        listener,
        threads=count_threads(settings),
        grace=settings.operation_timeout + _GRACE,
        on_stop=on_stop,
        never_wait=NEVER_WAIT,
        connections=settings.connections,
        request_timeout=settings.request_timeout,
        idle_timeout=settings.idle_timeout,
    )
    _stop_on_signals(server)
    with remove_own_socket(settings.listen):
        _announce(settings, listener)
        server.run()


def listen(where: str) -> socket.socket:
    """Bind ``host:port``, ``[ipv6]:port`` or ``unix:/path``; the latter with mode 0600.

    Raises:
        SettingsError: Somebody else serves there, or the address is not this machine's.
    """
    place = split_listen(where)
    try:
        return _listen_unix(place) if isinstance(place, Path) else _listen_tcp(*place)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {where}: {error.strerror}; choose another address with --listen"
        ) from error


@contextmanager
def remove_own_socket(where: str) -> Iterator[None]:
    """Remove a Unix socket at the end, unless it is that of a service that was started meanwhile.

    Args:
        where: As of ``listen``, which has bound it.
    """
    place = split_listen(where)
    if not isinstance(place, Path):
        yield
        return
    bound = os.open(place, os.O_PATH)  # so that no other file gets its inode's number
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(bound), place.lstat()):
                place.unlink()
        os.close(bound)


def notify_systemd(state: str, address: str | None) -> None:
    """Tell systemd the state of the service, if it asked to be told.

    Args:
        state: Such as ``READY=1``.
        address: What ``$NOTIFY_SOCKET`` says; None without systemd.

    Source: sd_notify(3).
    """
    if not address:
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.sendto(state.encode(), name)


def _listen_tcp(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    both = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address[:2], family=family, dualstack_ipv6=both)


def _listen_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        mask = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(mask)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Remove the socket of a service that was killed; one that answers stays."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()


def _stop_on_signals(server: Server) -> None:
    def stop(number: int, frame: object) -> None:
        del frame
        signal.signal(number, signal.SIG_DFL)
        notify_systemd("STOPPING=1", os.environ.get("NOTIFY_SOCKET"))
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _announce(settings: Settings, listener: socket.socket) -> None:
    if not is_local(settings.listen):
        _log.warning(
            "every machine that reaches this address can send requests, and tokens travel "
            "unencrypted: put a TLS proxy before it, or listen on 127.0.0.1 or a Unix socket",
            listen=settings.listen,
        )
    for sentence in unknown_variables(os.environ):
        _log.warning(sentence)
    for file in settings.exposed_files:
        _log.warning(
            "others on this machine can read or change this file: chmod 600 it", file=str(file)
        )
    _log.info(
        "serving",
        at=_url(listener),
        uri=settings.uri or "embedded demo host",
        registry=settings.shown_registry,
        auth=settings.auth,
    )
    notify_systemd("READY=1", os.environ.get("NOTIFY_SOCKET"))


def _url(listener: socket.socket) -> str:
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if listener.family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"
