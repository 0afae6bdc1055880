"""Ends a command with a sentence instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from hypeman_libvirt.printable import printable


def complain(message: str) -> None:
    """Say on stderr what went wrong."""
    lines = message.splitlines() or [""]
    click.echo("hypeman-libvirt: " + "\n".join(map(printable, lines)), err=True)


@contextmanager
def explained(*errors: type[Exception], status: int = 2) -> Iterator[None]:
    """End with the message of an error that was to be expected, and this exit status."""
    try:
        yield
    except errors as error:
        complain(str(error))
        raise click.exceptions.Exit(status) from error


@contextmanager
def explained_denial() -> Iterator[None]:
    """End with whose file it is, and status 2, where this user may not open one."""
    try:
        yield
    except PermissionError as error:
        from hypeman_libvirt.file_access import explain_denial

        file = error.filename if isinstance(error.filename, str) else None
        complain(explain_denial(Path(file)) if file else f"{error}; run the command with sudo")
        sys.exit(2)
