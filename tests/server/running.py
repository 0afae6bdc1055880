"""A server on a port of its own, in a thread, and the lines of its log."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any, Final
from wsgiref.types import WSGIApplication

from hypeman_libvirt.server.granian_server import GranianServer
from hypeman_libvirt.server.listening import listen
from hypeman_libvirt.server.waitress_server import WaitressServer

SERVERS: Final = {"granian": GranianServer, "waitress": WaitressServer}


class RunningServer:
    """A server that answers, its port, and a way to ask for its end."""

    def __init__(
        self,
        app: WSGIApplication,
        *,
        server: str,
        grace: float = 10.0,
        threads: int = 4,
        **options: Any,  # noqa: ANN401 - a server's
    ) -> None:
        self.events: list[str] = []
        listener = listen("127.0.0.1:0")
        self.port: int = listener.getsockname()[1]
        self._server = SERVERS[server](
            app,
            listener,
            threads=threads,
            grace=grace,
            on_stop=lambda: self.events.append("streams end"),
            **options,
        )
        self.thread = threading.Thread(target=self._server.run)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=300)

    def stop(self) -> None:
        self._server.stop()

    def join(self) -> None:
        self.thread.join(timeout=300)
        assert not self.thread.is_alive()


@contextmanager
def running(
    app: WSGIApplication,
    *,
    server: str = "granian",
    **options: Any,  # noqa: ANN401
) -> Iterator[RunningServer]:
    one = RunningServer(app, server=server, **options)
    one.thread.start()
    try:
        yield one
    finally:
        one.stop()
        one.join()


class LogLines(StringIO):
    """The log as it goes to a journal."""

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]
