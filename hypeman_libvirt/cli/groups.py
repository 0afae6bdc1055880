"""Groups of commands that answer to several spellings."""

from __future__ import annotations

from typing import Final

import click

ALIASES: Final = {"device": "devices", "ls": "list", "rm": "delete", "show": "get"}
"""hypeman's spellings, and what fingers type."""


class Group(click.Group):
    """A group that knows aliases; they are not listed, so that each command is listed once."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, or the one that it is another spelling of."""
        command = super().get_command(ctx, cmd_name)
        return command or super().get_command(ctx, ALIASES.get(cmd_name, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the command as help does, however it was spelled."""
        _, command, rest = super().resolve_command(ctx, args)
        return command.name if command else None, command, rest
