"""The service that is attacked, and the witness who asks it for ``/health`` meanwhile."""

from __future__ import annotations

import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hypeman_bench import servers
from hypeman_bench.load import percentile
from hypeman_bench.servers import Server

_FILES = 8192
"""Open files that an attacker with 1000 connections needs, at least."""
_PAUSE = 0.02
"""Seconds between two questions of the witness."""
_PATIENCE = 60.0


class Target:
    """A service under attack; the connections stay open until the attack is over."""

    def __init__(self, server: Server, registry: Path, stack: ExitStack) -> None:
        """Connect nobody yet."""
        self.server = server
        self.registry = registry
        self._stack = stack

    def connect(self) -> socket.socket:
        """Open a connection."""
        address = ("127.0.0.1", self.server.port)
        return self._stack.enter_context(socket.create_connection(address, _PATIENCE))

    def send(self, request: bytes) -> socket.socket:
        """Send a request, or as much of it as the service takes."""
        client = self.connect()
        try:
            client.sendall(request)
        except OSError:  # it has closed the connection
            client.close()
        return client

    def memory(self) -> float:
        """Return resident memory in MiB."""
        lines = Path(f"/proc/{self.server.pid}/status").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("VmRSS:")]
        return int(line.split()[1]) / 1024


class Witness:
    """Asks for ``/health`` over a new connection, again and again."""

    def __init__(self, port: int) -> None:
        """Begin to ask."""
        self._port = port
        self._took: list[float] = []
        self._failed = 0
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._ask_on)
        self._thread.start()

    def stop(self) -> str:
        """Return p99 and maximum in ms, and how many were not answered."""
        self._enough.set()
        self._thread.join()
        if len(self._took) < 2:  # noqa: PLR2004 - percentiles need two
            return f"none of {self._failed} answered"
        p99, most = percentile(self._took, 99), max(self._took)
        failed = f", {self._failed} of {len(self._took) + self._failed} failed"
        return f"{p99 * 1000:.1f} / {most * 1000:.1f} ms{failed if self._failed else ''}"

    def _ask_on(self) -> None:
        while not self._enough.wait(_PAUSE):
            began = time.perf_counter()
            try:
                with socket.create_connection(("127.0.0.1", self._port), _PATIENCE) as client:
                    client.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                    if not client.makefile("rb").readline().startswith(b"HTTP/1.1 200"):
                        raise OSError("not 200")  # noqa: TRY301 - counted like the others
            except OSError:
                self._failed += 1
            else:
                self._took.append(time.perf_counter() - began)


@contextmanager
def target(directory: Path, server: str) -> Iterator[Target]:
    """Serve the demo host on one of the servers; attackers go when the block ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    port, registry = servers.free_port(), directory / f"{server}.db"
    command = servers.command(port, registry, "--demo", "--server", server)
    with servers.serving(command, port, **servers.environment()) as started, ExitStack() as stack:
        yield Target(started, registry, stack)
