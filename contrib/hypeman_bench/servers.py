"""The servers under test, each a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypeman_bench import host_files

SECRET = secrets.token_hex(32)
START_SECONDS = 60.0
THREADS = 8
"""Of each server, so that they are equals."""
_BARE = Path(__file__).with_name("bare.py")
_HANGING = Path(__file__).with_name("hanging.py")
_CHANGING = Path(__file__).with_name("changing.py")


@dataclass(frozen=True)
class Server:
    """A server under test."""

    port: int
    token: str
    pid: int

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: object = None
    ) -> Any:  # noqa: ANN401 - what JSON may be
        """Send a request over an open connection; end the run if the answer is an error."""
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, self.headers)
        answer = connection.getresponse()
        told = answer.read()
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            sys.exit(f"bench: {method} {path} answered {answer.status}: {told!r}")
        return json.loads(told) if told else None

    def memory(self) -> int:
        """Return the bytes that the process alone answers for (PSS)."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("Pss:")]
        return int(line.split()[1]) * 1024


@contextmanager
def serving(command: Sequence[str], port: int, **environment: str) -> Iterator[Server]:
    """Run a server until the block ends."""
    process = subprocess.Popen(
        command,
        env=os.environ | environment,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(port, process)
        yield Server(port, _token(), process.pid)
    finally:
        process.terminate()
        process.wait(START_SECONDS)


@contextmanager
def bare() -> Iterator[Server]:
    """Serve the yardstick: Falcon on waitress, one constant answer."""
    port = free_port()
    with serving([sys.executable, str(_BARE), str(port), str(THREADS)], port) as server:
        yield server


@contextmanager
def ours(directory: Path, uri: str, registered: int = 0) -> Iterator[Server]:
    """Serve ours on a host, with so many devices registered."""
    port, registry = free_port(), directory / f"registry-{secrets.token_hex(4)}.db"
    seed(registry, uri, registered)
    with serving(command(port, registry, "--uri", uri), port, **environment()) as server:
        yield server


@contextmanager
def ours_that_can_hang() -> Iterator[Server]:
    """Serve ours on the fake libvirt, where every detach from a host driver hangs."""
    port = free_port()
    with serving([sys.executable, str(_HANGING), str(port)], port, **environment()) as server:
        yield server


def changes(seconds: float, *domains: int) -> dict[str, dict[str, tuple[float, int]]]:
    """Measure changes among so many domains: by operation and number, seconds and calls."""
    numbers = [str(each) for each in (seconds, *domains)]
    printed = subprocess.check_output([sys.executable, str(_CHANGING), *numbers], text=True)
    measured: dict[str, dict[str, tuple[float, int]]] = json.loads(printed)
    return measured


def command(port: int, registry: Path, *more: str) -> list[str]:
    """Return the command that starts ours, on its demo host if nothing else is said."""
    flags = ["--listen", f"127.0.0.1:{port}", "--registry", str(registry), *more]
    return [sys.executable, "-m", "hypeman_libvirt.cli.main", "serve", *flags]


def environment() -> dict[str, str]:
    """Return the settings that are no flags."""
    return {"JWT_SECRET": SECRET, "HYPEMAN_LIBVIRT_THREADS": str(THREADS)}


def seed(path: Path, uri: str, registered: int) -> None:
    """Register so many devices of the host; the first ones are there, the others missing."""
    from hypeman_libvirt.devices.address import PciAddress  # noqa: PLC0415 - the yardstick has none
    from hypeman_libvirt.devices.model import Registration  # noqa: PLC0415
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415
    from hypeman_libvirt.registry import SqlRegistry  # noqa: PLC0415

    host = open_host(uri)
    key = host.key()
    host.close()
    registry = SqlRegistry(path)
    for number in range(registered):
        registry.add(
            Registration(
                id=f"bench{number:019d}",
                host=key,
                pci_address=PciAddress.parse(_address(number)),
                name=f"gpu-{number}",
                created_at=datetime.now(UTC),
                created_by="bench",
                vendor_id="10de",
                device_id="27b8",
                class_code=0x030200,
                serial=None,
                iommu_group=number,
                host_driver="nvidia",
                tags={},
            )
        )
    registry.close()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until somebody listens on the port."""
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.005)
    sys.exit(f"bench: {process.args!r} does not listen on port {port}")


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _address(number: int) -> str:
    """Return a device of the generated host, or one beyond its end in another PCI domain."""
    on_host = 200
    if number < on_host:
        return host_files.address(number)
    return f"{0x10 + number // 8192:04x}:{number // 32 % 256:02x}:{number % 32:02x}.0"


def _token() -> str:
    import jwt  # noqa: PLC0415

    return jwt.encode({"sub": "bench"}, SECRET, algorithm="HS256")
