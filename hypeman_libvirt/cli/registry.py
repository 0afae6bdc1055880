"""``hypeman-libvirt registry``: what is stored, printed and recovered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hypeman_libvirt.cli import parameters
from hypeman_libvirt.cli.failures import explained
from hypeman_libvirt.cli.groups import Group
from hypeman_libvirt.cli.output import print_answer, print_json
from hypeman_libvirt.cli.world import CommandWorld, pass_world
from hypeman_libvirt.printable import printable

if TYPE_CHECKING:
    from hypeman_libvirt.devices.model import Registration
    from hypeman_libvirt.devices.recovery import Recovered
    from hypeman_libvirt.registry import SqlRegistry
    from hypeman_libvirt.settings import Settings

_location = click.option("--registry", help="SQLite file or SQLAlchemy URL of the registry.")
_uri = click.option("--uri", help="libvirt URI of the host.")


@click.group("registry", cls=Group)
def commands() -> None:
    """Print or recover registrations."""


@commands.command("export")
@_location
@parameters.config
@click.option("--json", is_flag=True, expose_value=False, help="As always: it prints JSON.")
@pass_world
def export_registrations(world: CommandWorld, registry: str | None, config: Path | None) -> None:
    """Print every registration of every host as a JSON array."""
    with _expected():
        settings = _settings(world, config, registry)
        with closing(_open(settings)) as opened:
            print_json([_shown(each) for each in opened.list_all()])


@commands.command("import")
@_location
@_uri
@parameters.config
@parameters.as_json
@pass_world
def import_registrations(
    world: CommandWorld, registry: str | None, uri: str | None, config: Path | None, as_json: bool
) -> None:
    """Register anew, under the same ids and names, what the host's domains say they hold.

    The exit status is 1 when an entry could not be registered and is not registered already.
    """
    from datetime import UTC, datetime

    from hypeman_libvirt.devices.recovery import recover
    from hypeman_libvirt.host.libvirt_host import open_host
    from hypeman_libvirt.host.test_driver import demo_uri

    with _expected():
        settings = _settings(world, config, registry, uri)
        with (
            closing(_open(settings)) as opened,
            closing(open_host(settings.uri or demo_uri())) as host,
        ):
            recovered = recover(host, opened, lambda: datetime.now(UTC))
    if as_json:
        print_json([_outcome(each) for each in recovered])
    else:
        for each in recovered:
            entry = f"{each.entry.name} ({each.entry.id}) of " if each.entry else ""
            line = f"{entry}domain {each.domain}: {each.problem or 'registered'}"
            click.echo(printable(line))
        if not recovered:
            click.echo("no domain of this host has an entry")
    if any(each.problem for each in recovered if not each.known):
        raise click.exceptions.Exit(1)


@commands.command("adopt")
@click.argument("old_host")
@_location
@_uri
@parameters.config
@parameters.as_json
@pass_world
def adopt_registrations(
    world: CommandWorld,
    old_host: str,
    registry: str | None,
    uri: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Make the registrations of OLD_HOST, which is gone, those of this host.

    The log and doctor ask for it where nothing proves that they are this machine's: after a new
    mainboard, or on a machine that was set up from a copy of another one.
    """
    from hypeman_libvirt.host.libvirt_host import open_host
    from hypeman_libvirt.host.test_driver import demo_uri

    with _expected():
        settings = _settings(world, config, registry, uri)
        with (
            closing(_open(settings)) as opened,
            closing(open_host(settings.uri or demo_uri())) as host,
        ):
            key = host.key()
            count = opened.adopt(old_host, key)
    answer = {"adopted": count, "from": old_host, "to": key}
    print_answer(answer, as_json, f"{count} registration(s) of {old_host} belong to {key} now")


@contextmanager
def _expected() -> Iterator[None]:
    from hypeman_libvirt.devices.errors import DeviceError
    from hypeman_libvirt.registry import RegistryOpenError
    from hypeman_libvirt.settings import SettingsError

    with explained(DeviceError, RegistryOpenError, SettingsError):
        yield


def _settings(
    world: CommandWorld, config: Path | None, registry: str | None, uri: str | None = None
) -> Settings:
    from hypeman_libvirt.settings import load_settings

    settings = load_settings(config, {"registry": registry, "uri": uri}, world.etc)
    settings.check_registry_file()
    return settings


def _open(settings: Settings) -> SqlRegistry:
    from hypeman_libvirt.registry import SqlRegistry

    return SqlRegistry(settings.registry_location)


def _shown(registration: Registration) -> dict[str, object]:
    from hypeman_libvirt.registry.fingerprints import write_fingerprint

    moved_from = registration.moved_from
    return asdict(registration) | {
        "pci_address": str(registration.pci_address),
        "moved_from": None if moved_from is None else str(moved_from),
        "fingerprint": write_fingerprint(registration.fingerprint),
        "created_at": registration.created_at.isoformat(),
    }


def _outcome(recovered: Recovered) -> dict[str, str | None]:
    """Describe what became of an entry; a note that is damaged has neither id nor name."""
    entry = recovered.entry
    return {
        "id": entry.id if entry else None,
        "name": entry.name if entry else None,
        "domain": recovered.domain,
        "outcome": recovered.problem or "registered",
    }
