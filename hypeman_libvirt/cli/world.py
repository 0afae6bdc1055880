"""What commands need of the machine; tests hand in another one."""

from __future__ import annotations

import subprocess  # nosec B404 - systemctl and journalctl, for doctor
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import click

Run: TypeAlias = Callable[[Sequence[str]], str | None]
"""Runs a program and returns what it printed; None where there is no such program."""

_SECONDS: Final = 10.0


def run_program(arguments: Sequence[str]) -> str | None:
    """Run a program; what it prints on stderr is dropped."""
    try:
        done = subprocess.run(  # noqa: S603  # nosec B603 - programs that doctor names itself
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            text=True,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout


@dataclass(frozen=True, slots=True)
class CommandWorld:
    """The machine.

    Attributes:
        root: Where its files are; ``/`` but for tests.
        run: Runs programs on it.
    """

    root: Path = Path("/")
    run: Run = run_program

    @property
    def etc(self) -> Path:
        """Directory of the settings and of the secret that the package makes."""
        return self.root / "etc/hypeman-libvirt"


pass_world = click.make_pass_decorator(CommandWorld, ensure=True)
