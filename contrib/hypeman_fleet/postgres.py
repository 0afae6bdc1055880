"""A PostgreSQL of one's own: on a Unix socket, without a port, ended afterwards."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

_DEBIAN: Final = Path("/usr/lib/postgresql")
_SETTINGS: Final = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "300",
    "shared_buffers": "64MB",
    "jit": "off",
}
_PATIENCE: Final = 300.0


class NoPostgresError(Exception):
    """This machine has no PostgreSQL to start."""


class Postgres:
    """A server that runs; what it stores is not meant to survive a power loss."""

    def __init__(self, programs: Path, directory: Path, user: str | None) -> None:
        """Start nothing yet.

        Args:
            programs: Where initdb and postgres are.
            directory: For data, log and socket.
            user: To run it as; None for this one.
        """
        self._programs = programs
        self._directory = directory
        self._user = user
        self._names = (f"fleet_{number}" for number in count(1))
        self._process: subprocess.Popen[bytes] | None = None

    def initialize(self) -> None:
        """Make an empty cluster."""
        self._run("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8")

    def start(self) -> None:
        """Start, and wait until it answers."""
        given = _SETTINGS | {"unix_socket_directories": str(self._directory)}
        options = [f"-c{name}={value}" for name, value in given.items()]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                **_as_user(self._user),
            )
        while self._try("pg_isready", "-q", "-h", self._directory) != 0:
            if self._process.poll() is not None:
                raise NoPostgresError((self._directory / "log").read_text())

    def stop(self, *, fast: bool = True) -> None:
        """End it; at once, as a power loss does, where it is not to be fast."""
        if self._process is not None:
            self._process.send_signal(2 if fast else 3)  # SIGINT: fast, SIGQUIT: immediate
            self._process.wait(_PATIENCE)
            self._process = None

    def restart(self) -> None:
        """End it as a crash does, and start it again."""
        self.stop(fast=False)
        self.start()

    def create_database(self, template: str = "template1") -> str:
        """Make a database; return its URL."""
        name = next(self._names)
        self._run("createdb", "-h", self._directory, "-U", "postgres", "-T", template, name)
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Delete a database, whoever is connected."""
        name = re.sub(r".*/(\w+)\?.*", r"\1", url)
        self._run("dropdb", "-f", "-h", self._directory, "-U", "postgres", name)

    def url(self, name: str) -> str:
        """Return the URL of a database."""
        where = quote(str(self._directory), safe="")
        return f"postgresql+psycopg:///{name}?host={where}&user=postgres"

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
            cwd=self._directory,
            **_as_user(self._user),
        )
        if done.returncode != 0:
            raise NoPostgresError(done.stderr)

    def _try(self, program: str, *arguments: str | Path) -> int:
        command = [self._programs / program, *arguments]
        return subprocess.run(command, check=False, env=_environment()).returncode


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start a server with an empty cluster, and end and delete it afterwards.

    Raises:
        NoPostgresError: There is none to start.
    """
    programs = find_programs()
    if programs is None:
        raise NoPostgresError("no PostgreSQL on this machine; apt-get install postgresql brings it")
    user = _other_user()
    # Where that user may enter, and short, as names of sockets must be.
    directory = Path(tempfile.mkdtemp(prefix="hypeman-pg-"))
    if user is not None:
        shutil.chown(directory, user)
    server = Postgres(programs, directory, user)
    try:
        server.initialize()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


def find_programs(unpacked: Path | None = None) -> Path | None:
    """Return the directory of initdb and postgres, the newest version first; None without.

    Args:
        unpacked: Where Debian's package may have been unpacked, beside what is installed and what
            the PATH leads to.
    """
    on_path = [
        Path(each).parent / "lib/postgresql" for each in os.environ["PATH"].split(os.pathsep)
    ]
    for place in (_DEBIAN, *on_path, unpacked):
        versions = (
            [each for each in place.glob("*/bin") if (each / "initdb").exists()] if place else []
        )
        if versions:
            return max(versions, key=lambda each: int(each.parent.name))
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def _other_user() -> str | None:
    """Return the user to run it as: PostgreSQL refuses root. None for this one."""
    if os.geteuid() != 0:
        return None
    known = {each.pw_name for each in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _as_user(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}
