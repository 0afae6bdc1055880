"""``hypeman-libvirt persist``: what the host does at boot."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from hypeman_libvirt import defaults
from hypeman_libvirt.cli import parameters
from hypeman_libvirt.cli.failures import explained
from hypeman_libvirt.cli.world import CommandWorld, pass_world


@click.command()
@click.option("--show", is_flag=True, required=True, help="Print the rules; the only way of it.")
@click.option("--registry", help=defaults.REGISTRY)
@click.option("--uri", help=defaults.URI)
@parameters.config
@pass_world
def persist(
    world: CommandWorld, show: bool, registry: str | None, uri: str | None, config: Path | None
) -> None:
    """Print the udev rules that bind persistent devices at boot, and make virtual functions.

    The root helper writes them into /etc/udev/rules.d/70-hypeman-libvirt.rules; where it does not
    run, root can do so by hand.
    """
    from hypeman_libvirt.devices.errors import DeviceError
    from hypeman_libvirt.helper.boot_rules import format_rules
    from hypeman_libvirt.host.libvirt_host import open_host
    from hypeman_libvirt.host.test_driver import demo_uri
    from hypeman_libvirt.registry import RegistryOpenError, SqlRegistry
    from hypeman_libvirt.settings import SettingsError, load_settings

    del show
    with explained(DeviceError, RegistryOpenError, SettingsError):
        settings = load_settings(config, {"registry": registry, "uri": uri}, world.etc)
        settings.check_registry_file()
        with (
            closing(SqlRegistry(settings.registry_location)) as opened,
            closing(open_host(settings.uri or demo_uri())) as host,
        ):
            rules = opened.list_boot_rules(host.key())
    click.echo(format_rules(rules), nl=False)
