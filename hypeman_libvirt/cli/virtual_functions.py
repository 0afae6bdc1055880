"""``hypeman-libvirt devices vfs``: SR-IOV virtual functions."""

from __future__ import annotations

from typing import Any, Final

import click

from hypeman_libvirt.cli import parameters
from hypeman_libvirt.cli.completion import complete_any
from hypeman_libvirt.cli.devices import commands
from hypeman_libvirt.cli.output import print_json, print_table
from hypeman_libvirt.cli.service import Service, pass_service

_COLUMNS: Final = ("pci_address", "driver", "registered_as", "attached_to")


@commands.command()
@click.argument("device", shell_complete=complete_any)
@click.option("--count", type=click.IntRange(0), help="Make exactly so many; 0 for none.")
@click.option("--autoprobe", is_flag=True, help="Let the host's drivers take them.")
@click.option("--persist", is_flag=True, help="Make them at boot, too.")
@parameters.as_json
@pass_service
def vfs(
    service: Service, device: str, count: int | None, autoprobe: bool, persist: bool, as_json: bool
) -> None:
    """List the virtual functions of a device, registered or not, or set how many there are.

    One number becomes another through none, so nobody may have any of them. Without --persist
    they are not made at boot.
    """
    from hypeman_libvirt.cli.api_client import device_path

    if count is None and (autoprobe or persist):
        raise click.UsageError("--autoprobe and --persist need --count")
    path = device_path(device, "virtual-functions")
    with service.asking() as api:
        if count is None:
            answer = api.get(path)
        else:
            answer = api.put(path, count=count, autoprobe=autoprobe, persist=persist)
    if as_json:
        print_json(answer)
    else:
        click.echo(_summary(answer))
        print_table(_COLUMNS, answer["functions"])


def _summary(answer: dict[str, Any]) -> str:
    at_boot = ", made at boot" if answer["persistent"] else ""
    probed = ", host drivers take new ones" if answer.get("autoprobe") else ""
    return f"{answer['count']} of {answer['total']} virtual functions{at_boot}{probed}"
