"""The command ``hypeman-libvirt serve``."""

from __future__ import annotations

from pathlib import Path

import click

from hypeman_libvirt import defaults
from hypeman_libvirt.cli import parameters
from hypeman_libvirt.cli.failures import explained
from hypeman_libvirt.cli.world import CommandWorld, pass_world


@click.command()
@click.option("--listen", help=defaults.LISTEN)
@click.option("--server", type=click.Choice(["granian", "waitress"]), help=defaults.SERVER)
@click.option("--tls-cert", metavar="FILE", help=defaults.TLS_CERT)
@click.option("--tls-key", metavar="FILE", help=defaults.TLS_KEY)
@click.option("--tls-client-ca", metavar="FILE", help=defaults.TLS_CLIENT_CA)
@click.option("--uri", help=defaults.URI)
@click.option("--demo", is_flag=True, help="Serve the embedded demo host, whatever is set.")
@click.option("--registry", help=defaults.REGISTRY)
@click.option("--auth", help=defaults.AUTH)
@click.option("--ui", help=defaults.UI)
@parameters.config
@pass_world
def serve(
    world: CommandWorld,
    listen: str | None,
    uri: str | None,
    demo: bool,
    registry: str | None,
    auth: str | None,
    ui: str | None,
    server: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
    config: Path | None,
) -> None:
    """Serve the device API until SIGTERM or Ctrl-C.

    Every setting can also stand in the environment (HYPEMAN_LIBVIRT_LISTEN, ...; the secret in
    JWT_SECRET) or in the TOML file. Flags go first, then the environment, then the file.
    """
    from hypeman_libvirt.devices.errors import DeviceError
    from hypeman_libvirt.host.test_driver import demo_uri
    from hypeman_libvirt.host.uri import WrongUriError, check_uri
    from hypeman_libvirt.registry import RegistryOpenError
    from hypeman_libvirt.server.serve import serve as run
    from hypeman_libvirt.settings import SettingsError, load_settings

    if demo and uri:
        raise click.UsageError("--demo names the host; leave --uri out")
    flags = {
        "listen": listen,
        "server": server,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "tls_client_ca": tls_client_ca,
        "uri": demo_uri() if demo else uri,
        "registry": registry,
        "auth": auth,
        "ui": ui,
    }
    # A registry may be locked or its server down for now: systemd tries again after status 1.
    with (
        explained(SettingsError, DeviceError, WrongUriError),
        explained(RegistryOpenError, status=1),
    ):
        settings = load_settings(config, flags, world.etc)
        settings.check_registry_file()
        check_uri(settings.uri or demo_uri())
        run(settings)
