"""The command ``serve``: a server on the app, until a signal."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from importlib.util import find_spec
from typing import Any, Final, Protocol
from wsgiref.types import WSGIApplication

import structlog

from hypeman_libvirt.bootstrap import (
    build_app,
    build_service,
    count_threads,
    create_auth,
    open_world,
)
from hypeman_libvirt.rest.routes import NEVER_WAIT
from hypeman_libvirt.server import logs
from hypeman_libvirt.server.bounds import GRACE
from hypeman_libvirt.server.device_reads import DeviceReads
from hypeman_libvirt.server.listening import listen, remove_own_socket, url_of
from hypeman_libvirt.server.tls import read_tls
from hypeman_libvirt.server.unauthenticated import UnauthenticatedLimit
from hypeman_libvirt.settings import (
    ServerName,
    Settings,
    SettingsError,
    is_local,
    unknown_variables,
)

_log: Final = structlog.get_logger(__name__)


class Server(Protocol):
    """Answers requests on a socket that listens."""

    def run(self) -> None:
        """Serve until ``stop``, then finish the requests that run."""

    def stop(self) -> None:
        """Make ``run`` come to its end; from any thread or signal handler."""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; a second one stops at once.

    Raises:
        SettingsError: There is no secret, the address cannot be served on, or not that way.
        RegistryOpenError: The registry cannot be used.
    """
    auth = create_auth(settings)
    _server_name(settings), read_tls(settings)
    with closing(logs.LogWriter(sys.stderr)) as log:
        logs.configure(log)
        world = open_world(settings)
        world.metrics.watch_log(lambda: log.dropped)
        with closing(build_service(settings, world)) as service:
            listener = listen(settings.listen)
            service.start_following()
            app = build_app(settings, world, service, auth, logs.request_lines(log))
            about = {
                "uri": settings.uri or "embedded demo host",
                "registry": settings.shown_registry,
                "auth": settings.auth,
            }
            reads = DeviceReads(service.inventory, auth, app)
            of_granian = {
                "nonblocking": world.nonblocking,
                "reads": reads,
                "refuse": UnauthenticatedLimit(auth),
            }
            run(settings, app, listener, service.event_feed.close, about, **of_granian)
        _log.info("stopped")


def run(
    settings: Settings,
    app: WSGIApplication,
    listener: socket.socket,
    on_stop: Callable[[], None],
    about: Mapping[str, str],
    **of_granian: Any,  # noqa: ANN401 - its other options
) -> None:
    """Answer until a signal.

    Args:
        settings: Of the server.
        app: What answers.
        listener: Bound; closed at the end.
        on_stop: Called at the end, before running requests are awaited.
        about: What is logged of the service when it begins.
        **of_granian: What granian's thread answers by itself; see GranianServer.
    """
    server = _create_server(settings, app, listener, on_stop, **of_granian)
    _handle_signals(server)
    with remove_own_socket(settings.listen):
        _announce(settings, listener, about)
        server.run()


def _create_server(
    settings: Settings,
    app: WSGIApplication,
    listener: socket.socket,
    on_stop: Callable[[], None],
    **of_granian: Any,  # noqa: ANN401 - its other options
) -> Server:
    """Return the server that the settings name; the other one is not even imported."""
    options: dict[str, Any] = {
        "threads": count_threads(settings),
        "grace": settings.operation_timeout + GRACE,
        "on_stop": on_stop,
        "never_wait": NEVER_WAIT,
        "connections": settings.connections,
        "request_timeout": settings.request_timeout,
        "idle_timeout": settings.idle_timeout,
    }
    if _server_name(settings) == "granian":
        from hypeman_libvirt.server.granian_server import GranianServer  # noqa: PLC0415

        return GranianServer(app, listener, tls=read_tls(settings), **of_granian, **options)
    from hypeman_libvirt.server.waitress_server import WaitressServer  # noqa: PLC0415

    return WaitressServer(app, listener, **options)


def _server_name(settings: Settings) -> ServerName:
    """Return which server to run.

    Raises:
        SettingsError: It is not installed, or cannot do what is set.
    """
    installed = find_spec("granian") is not None
    name = settings.server or ("granian" if installed else "waitress")
    if name == "granian" and not installed:
        raise SettingsError("granian is not installed: pip install granian, or --server waitress")
    if name == "waitress" and settings.tls_cert is not None:
        raise SettingsError(
            "waitress does not speak TLS: use --server granian, or a proxy without --tls-cert"
        )
    return name


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


def _handle_signals(server: Server) -> None:
    def stop(number: int, frame: object) -> None:
        del frame
        signal.signal(number, signal.SIG_DFL)
        notify_systemd("STOPPING=1", os.environ.get("NOTIFY_SOCKET"))
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _announce(settings: Settings, listener: socket.socket, about: Mapping[str, str]) -> None:
    if not (is_local(settings.listen) or settings.tls_cert):
        _log.warning(
            "every machine that reaches this address can send requests, and tokens travel "
            "unencrypted: set tls_cert and tls_key, put a TLS proxy before it, or listen on "
            "127.0.0.1 or a Unix socket",
            listen=settings.listen,
        )
    for sentence in unknown_variables(os.environ, type(settings)):
        _log.warning(sentence)
    for file in settings.exposed_files:
        _log.warning(
            "others on this machine can read or change this file: chmod 600 it", file=str(file)
        )
    _log.info(
        "serving",
        at=url_of(listener, tls=settings.tls_cert is not None),
        server=_server_name(settings),
        **about,
    )
    notify_systemd("READY=1", os.environ.get("NOTIFY_SOCKET"))
