"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import click

from hypeman_libvirt.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

_UNLIMITED: Final = 10_000
"""Columns where output is no terminal."""


def print_json(body: object) -> None:
    """Print a value as JSON; what is not ASCII is escaped."""
    click.echo(json.dumps(body, indent=2))


def print_answer(body: object, as_json: bool, sentence: str) -> None:
    """Print what a change did: its answer for programs, a sentence for people."""
    print_json(body) if as_json else click.echo(printable(sentence))


def print_table(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Print rows below their columns' names; without colours, and nothing cut when piped."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.upper().replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text(show(row.get(column))) for column in columns))
    console().print(table)


def print_facts(facts: Mapping[str, object]) -> None:
    """Print one thing, a line for each of its facts."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(printable(name), Text(show(value)))
    console().print(table)


def show(value: object) -> str:
    """Write a value for people: nothing as ``-``, a mapping as ``key=value``."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return printable(", ".join(f"{key}={each}" for key, each in value.items())) or "-"
    if isinstance(value, (list, tuple)):
        return printable(", ".join(map(str, value))) or "-"
    return "-" if value is None else printable(str(value))


def console() -> Console:
    """Return where commands print; as wide as it needs to be where that is no terminal."""
    from rich.console import Console

    terminal = Console(highlight=False, soft_wrap=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=_UNLIMITED)
