"""A root that is booted: systemd runs in it, as on a host."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hypeman_newcomer.root import Machine, network_environment, run

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BOOT: Final = 120.0
"""Seconds that systemd has to come up."""


class NoContainerError(Exception):
    """This machine cannot boot a root, for the reason it says."""


class Booted:
    """A root in which systemd runs."""

    def __init__(self, leader: int) -> None:
        """Reach it.

        Args:
            leader: The process that is its init.
        """
        self._leader = leader

    def run(self, script: str) -> tuple[int, str]:
        """Run a script of bash as root, and return its status and what it printed."""
        environment = {
            **network_environment(),
            "HOME": "/root",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        environment["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        variables = [f"{key}={value}" for key, value in environment.items()]
        enter = ["nsenter", f"--target={self._leader}", "--all", "--root", "--wd"]
        return run([*enter, "env", "-i", *variables, "bash", "-c", f"cd /; {script}"])


@contextmanager
def booted(machine: Machine) -> Iterator[Booted]:
    """Boot a root, and stop it at the end.

    Raises:
        NoContainerError: There is no systemd-nspawn, or it cannot boot here.
    """
    nspawn = shutil.which("systemd-nspawn")
    if nspawn is None:
        raise NoContainerError("systemd-nspawn is not here: apt-get install systemd-container")
    command = [nspawn, f"--directory={machine.directory}", "--boot", "--console=pipe"]
    command += ["--register=no", "--keep-unit"]  # there need be no systemd outside
    log = machine.directory.with_suffix(".log")
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            yield _await_boot(process, log)
        finally:
            process.terminate()
            log.unlink()


def _await_boot(process: subprocess.Popen[bytes], log: Path) -> Booted:
    give_up = time.monotonic() + _BOOT
    while time.monotonic() < give_up and process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            inside = Booted(int(child))
            if "running" in (state := inside.run("systemctl is-system-running")[1]) or (
                "degraded" in state
            ):
                return inside
        time.sleep(0.5)
    said = shlex.quote(log.read_text(errors="replace")[-300:])
    raise NoContainerError(f"it does not boot here: {said}")
