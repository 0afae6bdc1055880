"""Serves on the fake libvirt, as a process of its own: ``python -m tests.trust.service FOLDER``.

Prints its port. The registry is in the directory; so is the host, which every start makes anew.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.api.client import SECRET, bearer

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 300.0
AS_IN_THE_UNIT: Final = {"MALLOC_ARENA_MAX": "2"}
HOST: Final = "6f1d0c52-7b3e-4a80-9d1f-2c4b8e6a9053"
"""UUID of the host, so that registrations are found again by the next process."""


@dataclass(frozen=True)
class Process:
    """A service that runs."""

    port: int
    pid: int

    @property
    def memory(self) -> int:
        """Resident memory in bytes."""
        return self._status("VmRSS") * 1024

    @property
    def threads(self) -> int:
        """How many threads it has."""
        return self._status("Threads")

    @property
    def files(self) -> int:
        """How many files and sockets it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def _status(self, field: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        (value,) = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
        return int(value)


class Caller:
    """Speaks to a service, over one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        headers = {**bearer(), "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body)
        self._connection.request(method, path, content, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextmanager
def serving(directory: Path, **settings: object) -> Iterator[Process]:
    """Start a service with settings by name, and stop it in the end."""
    given = {f"HYPEMAN_LIBVIRT_{name.upper()}": str(value) for name, value in settings.items()}
    descriptor, name = tempfile.mkstemp(".log", "service-", directory)
    log = Path(name)
    with os.fdopen(descriptor, "w") as stderr:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "tests.trust.service", str(directory)],
            cwd=ROOT,
            env=os.environ | AS_IN_THE_UNIT | given | {"JWT_SECRET": SECRET},
            stderr=stderr,
        )
    try:
        yield Process(_await_port(process, log), process.pid)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _await_port(process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait until the log says where the service listens."""
    with log.open() as lines:
        while process.poll() is None:
            line = lines.readline()
            if '"serving"' in line:
                url: str = json.loads(line)["at"]
                return int(url.rpartition(":")[2])
    raise AssertionError(log.read_text())


def main() -> None:
    """Serve."""
    from tests import fake_libvirt  # noqa: PLC0415 - in the process of the service alone

    sys.modules["libvirt"] = fake_libvirt
    from hypeman_libvirt.server import serve as server  # noqa: PLC0415
    from hypeman_libvirt.settings import load_settings  # noqa: PLC0415
    from tests.conftest import seed_host  # noqa: PLC0415

    host = seed_host()
    host.uuid = HOST
    for number in range(20):
        host.add_pci(
            f"0000:{0x90 + number:02x}:00.0", product="27b8", driver="nvidia", group=100 + number
        )
    fake_libvirt.serve(host)
    flags = {
        "listen": "127.0.0.1:0",
        "uri": host.uri,
        "registry": f"{sys.argv[1]}/registry.db",
    }
    server.serve(load_settings(None, flags))


if __name__ == "__main__":
    main()
