"""The command ``hypeman-libvirt hub``."""

from __future__ import annotations

from pathlib import Path

import click

from hypeman_libvirt import defaults
from hypeman_libvirt.cli.failures import explained
from hypeman_libvirt.cli.world import CommandWorld, pass_world


@click.command()
@click.option("--listen", help=defaults.LISTEN)
@click.option("--database", help=defaults.DATABASE)
@click.option("--auth", help=defaults.AUTH)
@click.option(
    "--config",
    type=click.Path(path_type=Path, readable=False),
    help=f"TOML file with settings. Default: {defaults.HUB_CONFIG} where it exists.",
)
@pass_world
def hub(
    world: CommandWorld,
    listen: str | None,
    database: str | None,
    auth: str | None,
    config: Path | None,
) -> None:
    """Serve many hosts as one until SIGTERM or Ctrl-C.

    All state is in PostgreSQL, so that any number of hubs may run. Settings come from flags, the
    environment (HYPEMAN_LIBVIRT_DATABASE, ...; the secret in JWT_SECRET) and the TOML file.
    """
    from hypeman_libvirt.devices.errors import DeviceError
    from hypeman_libvirt.hub.settings import HubSettings
    from hypeman_libvirt.registry import RegistryOpenError
    from hypeman_libvirt.server import hub as server
    from hypeman_libvirt.settings import SettingsError, load_kind

    flags = {"listen": listen, "database": database, "auth": auth}
    # The database may be down for now: systemd tries again after status 1.
    with explained(SettingsError, DeviceError), explained(RegistryOpenError, status=1):
        settings = load_kind(HubSettings, config, flags, world.etc, defaults.HUB_CONFIG.name)
        server.serve_hub(settings)
