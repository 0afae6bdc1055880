"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from hypeman_libvirt.cli.completion import complete_device
from hypeman_libvirt.defaults import DEFAULT_CONFIG

F = TypeVar("F", bound=Callable[..., Any])
Decorate = Callable[[F], F]

SCOPES: Final = click.Choice(["device", "group"])

config = click.option(
    "--config",
    type=click.Path(path_type=Path, readable=False),  # else click refuses it, without saying whose
    help=f"TOML file with settings. Default: {DEFAULT_CONFIG} where it exists.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
device = click.argument("device", shell_complete=complete_device)
in_scope = click.option(
    "--scope",
    type=SCOPES,
    default="device",
    show_default=True,
    help="The device alone, or every endpoint of its IOMMU group.",
)
force = click.option(
    "--force", is_flag=True, help="Even if the host lives on the device. It is logged."
)
tag = click.option("--tag", multiple=True, metavar="KEY=VALUE", help="May be repeated.")


def read_tags(given: Sequence[str], hint: str = "--tag") -> dict[str, str]:
    """Read ``key=value`` words.

    Raises:
        click.BadParameter: One has no equals sign.
    """
    pairs = [each.partition("=") for each in given]
    if wrong := [key for key, equals, _ in pairs if not equals]:
        raise click.BadParameter(f"{wrong[0]!r} is no key=value", param_hint=hint)
    return {key: value for key, _, value in pairs}
