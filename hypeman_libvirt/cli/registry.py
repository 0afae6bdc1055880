"""``hypeman-libvirt registry``: what is kept, printed and recovered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.devices.model import Registration
from hypeman_libvirt.devices.recovery import recover
from hypeman_libvirt.host.libvirt_host import open_host
from hypeman_libvirt.host.test_driver import demo_uri
from hypeman_libvirt.registry import RegistryOpenError, SqlRegistry
from hypeman_libvirt.settings import Settings, SettingsError, load_settings

_EXPECTED: Final = (DeviceError, RegistryOpenError, SettingsError)

commands = typer.Typer(help="Print or recover registrations.", no_args_is_help=True)

Config = Annotated[Path | None, typer.Option(help="TOML file with settings.")]
Location = Annotated[
    str | None, typer.Option("--registry", help="SQLite file or SQLAlchemy URL of the registry.")
]


@commands.command("export")
def export_registrations(registry: Location = None, config: Config = None) -> None:
    """Print every registration of every host as a JSON array."""
    with told(*_EXPECTED), closing(_open(_settings(config, registry))) as opened:
        typer.echo(json.dumps([_shown(each) for each in opened.list_all()], indent=2))


@commands.command("import")
def import_registrations(
    registry: Location = None,
    uri: Annotated[str | None, typer.Option(help="libvirt URI of the host.")] = None,
    config: Config = None,
) -> None:
    """Register anew, under the same ids and names, what the host's domains say they hold.

    The exit status is 1 when an entry could not be registered and is not registered already.
    """
    with told(*_EXPECTED):
        settings = _settings(config, registry, uri)
        with (
            closing(_open(settings)) as opened,
            closing(open_host(settings.uri or demo_uri())) as host,
        ):
            recovered = recover(host, opened, lambda: datetime.now(UTC))
    for each in recovered:
        entry = f"{each.entry.name} ({each.entry.id}) of " if each.entry else ""
        typer.echo(f"{entry}domain {each.domain}: {each.problem or 'registered'}")
    if not recovered:
        typer.echo("no domain of this host has an entry")
    if any(each.problem for each in recovered if not each.known):
        raise typer.Exit(1)


@commands.command("adopt")
def adopt_registrations(
    old_host: Annotated[str, typer.Argument(help="UUID that the host had.", show_default=False)],
    registry: Location = None,
    uri: Annotated[str | None, typer.Option(help="libvirt URI of the host.")] = None,
    config: Config = None,
) -> None:
    """Make the registrations of a host UUID that is gone those of this host.

    libvirt makes a new UUID up at each start where the firmware has none; doctor says so, and how
    to end it.
    """
    with told(*_EXPECTED):
        settings = _settings(config, registry, uri)
        with (
            closing(_open(settings)) as opened,
            closing(open_host(settings.uri or demo_uri())) as host,
        ):
            count = opened.adopt(old_host, host.key())
            typer.echo(f"{count} registration(s) of {old_host} belong to {host.key()} now")


def _settings(config: Path | None, registry: str | None, uri: str | None = None) -> Settings:
    return load_settings(config, {"registry": registry, "uri": uri})


def _open(settings: Settings) -> SqlRegistry:
    return SqlRegistry(settings.registry_location)


def _shown(registration: Registration) -> dict[str, object]:
    return asdict(registration) | {
        "pci_address": str(registration.pci_address),
        "created_at": registration.created_at.isoformat(),
    }


@contextmanager
def told(*errors: type[Exception], status: int = 2) -> Iterator[None]:
    """End with a message in place of a traceback."""
    try:
        yield
    except errors as error:
        typer.echo(f"hypeman-libvirt: {error}", err=True)
        raise typer.Exit(status) from error
