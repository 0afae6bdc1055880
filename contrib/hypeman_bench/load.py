"""Loading a server, and what it took."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypeman_bench.servers import Server

CLIENTS = 16
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Load:
    """What one round of load showed.

    Attributes:
        per_second: Answers.
        p99: Seconds that 99 of 100 answers took at most.
    """

    per_second: float
    p99: float


def many_clients(server: Server, path: str, seconds: float) -> Load:
    """Read one path with 16 clients."""
    wrk = shutil.which("wrk")
    return (
        _by_wrk(wrk, server, path, seconds)
        if wrk
        else _by_threads(server, CLIENTS, lambda each: _reader(each, path), seconds)
    )


def one_client(server: Server, path: str, seconds: float) -> Load:
    """Read one path with one client."""
    return _by_threads(server, 1, lambda each: _reader(each, path), seconds)


def one_writer(server: Server, address: str, seconds: float) -> Load:
    """Register and unregister in turn with one client; counts pairs."""
    return _by_threads(server, 1, lambda each: _writer(each, address), seconds)


def round_trip(load: Load) -> float:
    """Return the seconds of one answer to one client."""
    return 1 / load.per_second


def percentile(values: Sequence[float], hundredth: int) -> float:
    """Return the value that so many of a hundred are not above."""
    return statistics.quantiles(values, n=100, method="inclusive")[hundredth - 1]


def _by_wrk(wrk: str, server: Server, path: str, seconds: float) -> Load:
    flags = ["-t1", f"-c{CLIENTS}", f"-d{max(1, round(seconds))}s", "--latency"]
    header = f"Authorization: Bearer {server.token}"
    url = f"http://127.0.0.1:{server.port}{path}"
    command = [wrk, *flags, "-H", header, url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in printed:
        sys.exit(f"bench: {path} answered errors:\n{printed}")
    (rate,) = re.findall(r"Requests/sec:\s+([0-9.]+)", printed)
    ((p99, unit),) = re.findall(r"99%\s+([0-9.]+)(us|ms|s)", printed)
    return Load(float(rate), float(p99) * _SECONDS[unit])


def _by_threads(
    server: Server, clients: int, step: Callable[[Server], Callable[[], object]], seconds: float
) -> Load:
    took: list[float] = []
    end = time.monotonic() + seconds

    def repeat() -> None:
        ask = step(server)
        while time.monotonic() < end:
            began = time.perf_counter()
            ask()
            took.append(time.perf_counter() - began)

    threads = [threading.Thread(target=repeat) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Load(len(took) / seconds, percentile(took, 99))


def _reader(server: Server, path: str) -> Callable[[], object]:
    connection = server.connect()
    return lambda: server.send(connection, "GET", path)


def _writer(server: Server, address: str) -> Callable[[], object]:
    connection = server.connect()
    body = {"pci_address": address, "name": "bench-other"}

    def pair() -> None:
        server.send(connection, "POST", "/devices", body)
        server.send(connection, "DELETE", "/devices/bench-other")

    return pair
