"""The command line: ``hypeman-libvirt``.

What a command needs is imported when it runs: ``--help``, ``--version`` and completion import
click and this package's own light modules alone.
"""

from __future__ import annotations

import os

import click

from hypeman_libvirt.cli import (
    device_changes,  # noqa: F401 - adds its commands to those of devices
    devices,
    doctor,
    hub,
    persist,
    registry,
    serve,
    token,
    vgpus,  # noqa: F401 - likewise
    virtual_functions,  # noqa: F401 - likewise
)
from hypeman_libvirt.cli.completion import PROGRAM, SHELLS, script
from hypeman_libvirt.cli.failures import explained_denial
from hypeman_libvirt.cli.groups import Group
from hypeman_libvirt.version import __version__


def _show_completion(ctx: click.Context, _: click.Parameter, shell: str | None) -> None:
    if shell is None or ctx.resilient_parsing:
        return
    own = os.path.basename(os.environ.get("SHELL", ""))  # noqa: PTH119 - a word, no path
    chosen = shell or own
    if chosen not in SHELLS:
        raise click.BadParameter(f"{chosen!r} is none of {', '.join(SHELLS)}", ctx=ctx)
    click.echo(script(cli, chosen))
    ctx.exit()


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message=f"{PROGRAM} %(version)s", help="Print the version.")
@click.option(
    "--show-completion",
    metavar="[SHELL]",
    is_flag=False,
    flag_value="",
    is_eager=True,
    expose_value=False,
    callback=_show_completion,
    help="Print what completes commands and names in bash, zsh or fish.",
)
def cli() -> None:
    """hypeman's PCI-passthrough device API for hosts that run libvirt."""


for _command in (
    serve.serve,
    hub.hub,
    token.token,
    doctor.doctor,
    persist.persist,
    devices.commands,
    registry.commands,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command that the arguments name."""
    with explained_denial():
        cli(prog_name=PROGRAM)


if __name__ == "__main__":
    main()
