"""A hub and agents as processes of their own, on loopback, with a PostgreSQL of their own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hypeman_fleet.postgres import Postgres

ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAM: Final = Path(sys.executable).with_name("hypeman-libvirt")
DEMO_HOST: Final = ROOT / "contrib" / "demo" / "host.xml"
_PATIENCE: Final = 300.0


@dataclass
class LocalFleet:
    """Processes that run.

    Attributes:
        directory: For state and logs.
        database: URL of the hub's database.
        port: Of the hub.
        secret: Of the hubs, 64 hex digits.
        token: Opens the hub's API.
        processes: By name: ``hub`` and those of the agents.
    """

    directory: Path
    database: str
    port: int
    secret: str = field(default_factory=lambda: secrets.token_hex(32))
    token: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the hub answers."""
        return f"http://127.0.0.1:{self.port}"

    def start_hub(self) -> None:
        """Start the hub, and wait until it answers."""
        arguments = ["hub", "--listen", f"127.0.0.1:{self.port}", "--database", self.database]
        self._start("hub", arguments, {"JWT_SECRET": self.secret})
        self.wait("/ready")
        if not self.token:
            made = [str(PROGRAM), "token", "--user-id", "demo"]
            environment = os.environ | {"JWT_SECRET": self.secret}
            done = subprocess.run(made, env=environment, capture_output=True, check=True, text=True)
            self.token = done.stdout.strip()

    def start_agent(self, name: str) -> None:
        """Start a service on a demo host of its own; the first time it enrols."""
        directory = self.directory / name
        environment = {
            "XDG_STATE_HOME": str(directory),
            "JWT_SECRET": secrets.token_hex(32),
            "HYPEMAN_LIBVIRT_HUB": self.url,
        }
        if not directory.exists():
            directory.mkdir()
            shutil.copy(DEMO_HOST, directory / "host.xml")
            invited = self.ask("POST", "/hosts", {"name": name})
            environment["HYPEMAN_LIBVIRT_HUB_TOKEN"] = invited["token"]
        port = free_port()
        environment["HYPEMAN_LIBVIRT_AGENT_URL"] = f"http://127.0.0.1:{port}"
        uri = f"test://{directory}/host.xml"
        self._start(name, ["serve", "--listen", f"127.0.0.1:{port}", "--uri", uri], environment)

    def wait_for(self, names: Sequence[str]) -> None:
        """Wait until these hosts have reported."""
        while not set(names) <= {
            each["name"] for each in self.ask("GET", "/hosts") if each["status"] == "up"
        }:
            self._check()

    def kill(self, name: str) -> None:
        """End a process as a power loss does."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(_PATIENCE)

    def stop(self) -> None:
        """End all processes."""
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            process.wait(_PATIENCE)

    def ask(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        """Ask the hub."""
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, content, method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            return json.loads(answer.read() or b"null")

    def wait(self, path: str) -> None:
        """Wait until the hub answers on a path that needs no token."""
        while True:
            try:
                urllib.request.urlopen(self.url + path, timeout=_PATIENCE).close()
            except (urllib.error.URLError, ConnectionError):
                self._check()
            else:
                return

    def _check(self) -> None:
        """End where a process has ended by itself."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise SystemExit(
                    f"{name} has ended:\n{(self.directory / name).with_suffix('.log').read_text()}"
                )

    def _start(self, name: str, arguments: Sequence[str], environment: dict[str, str]) -> None:
        inherited = {key: value for key, value in os.environ.items() if not _is_ours(key)}
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [PROGRAM, *arguments],
                env=inherited | environment,
                stdin=subprocess.DEVNULL,
                stderr=log,
                stdout=log,
            )


@contextmanager
def local_fleet(
    postgres: Postgres, directory: Path, names: Sequence[str], port: int = 0
) -> Iterator[LocalFleet]:
    """Run a hub and agents of these names; end them afterwards.

    Args:
        postgres: Has a database made for them.
        directory: For state and logs.
        names: Of the agents.
        port: Of the hub; 0 for any.
    """
    with ExitStack() as ended:
        database = postgres.create_database()
        ended.callback(postgres.drop_database, database)
        fleet = LocalFleet(directory, database, port or free_port())
        ended.callback(fleet.stop)
        fleet.start_hub()
        for name in names:
            fleet.start_agent(name)
        fleet.wait_for(names)
        yield fleet


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _is_ours(variable: str) -> bool:
    return variable.startswith(("HYPEMAN_LIBVIRT_", "JWT_SECRET"))
