"""The command line: ``hypeman-libvirt``."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated, Any, Final, get_args

import jwt
import typer

from hypeman_libvirt import __version__
from hypeman_libvirt.cli import devices, doctor, registry
from hypeman_libvirt.cli.registry import told
from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.registry import RegistryOpenError
from hypeman_libvirt.rest.auth import Permission
from hypeman_libvirt.server import serve as server
from hypeman_libvirt.settings import DEFAULT_CONFIG, Settings, SettingsError, load_settings

_PERMISSIONS: Final = (*get_args(Permission), "*")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_CONFIG_HELP: Final = f"TOML file with settings. Default: {DEFAULT_CONFIG} where it exists."

cli = typer.Typer(
    help="hypeman's PCI-passthrough device API for hosts that run libvirt.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they would print local variables, the secret among them
)


cli.command()(doctor.doctor)
cli.add_typer(devices.commands, name="devices")
cli.add_typer(registry.commands, name="registry")


def _setting(name: str) -> Any:  # noqa: ANN401  # typer's own type
    """Make a flag of a setting; its description is its help."""
    return typer.Option(help=Settings.model_fields[name].description, show_default=False)


def main() -> None:
    """Run the command that the arguments name."""
    cli()


@cli.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"hypeman-libvirt {__version__}")
        raise typer.Exit


@cli.command()
def serve(
    listen: Annotated[str | None, _setting("listen")] = None,
    uri: Annotated[str | None, _setting("uri")] = None,
    registry: Annotated[str | None, _setting("registry")] = None,
    auth: Annotated[str | None, _setting("auth")] = None,
    config: Annotated[Path | None, typer.Option(help=_CONFIG_HELP)] = None,
) -> None:
    """Serve the device API until SIGTERM or Ctrl-C.

    Every setting can also stand in the environment (HYPEMAN_LIBVIRT_LISTEN, ...; the secret in
    JWT_SECRET) or in the TOML file. Flags go first, then the environment, then the file.
    """
    flags = {"listen": listen, "uri": uri, "registry": registry, "auth": auth}
    # A registry may be locked or its server down for now: systemd tries again after status 1.
    with told(SettingsError, DeviceError), told(RegistryOpenError, status=1):
        server.serve(load_settings(config, flags))


@cli.command()
def token(
    user_id: Annotated[str, typer.Option(help="Whom the token is for: its subject.")],
    duration: Annotated[
        str, typer.Option(help="How long it is good for: a number and s, m, h, d or w.")
    ] = "30d",
    permissions: Annotated[
        str | None,
        typer.Option(
            help="What it allows, separated by commas: device:read, device:write, device:delete, "
            "resource:read or *. Default: everything."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help=_CONFIG_HELP)] = None,
) -> None:
    """Print a bearer token, signed with the secret of the settings."""
    with told(SettingsError, ValueError):
        claims = make_claims(user_id, int(time.time()), duration, permissions)
        typer.echo(jwt.encode(claims, load_settings(config).secret(), algorithm="HS256"))


def make_claims(
    user_id: str, now: int, duration: str, permissions: str | None
) -> dict[str, object]:
    """Return what a token says.

    Args:
        user_id: Its subject.
        now: Seconds since 1970.
        duration: See ``parse_duration``.
        permissions: Separated by commas; None grants all.

    Raises:
        ValueError: The duration or a permission is none.
    """
    claims: dict[str, object] = {"sub": user_id, "iat": now, "exp": now + parse_duration(duration)}
    if permissions is None:
        return claims
    granted = [each.strip() for each in permissions.split(",")]
    for each in granted:
        if each not in _PERMISSIONS:
            raise ValueError(f"there is no permission {each!r}; use {', '.join(_PERMISSIONS)}")
    return claims | {"permissions": granted}


def parse_duration(text: str) -> int:
    """Return the seconds of ``90s``, ``15m``, ``12h``, ``30d`` or ``2w``.

    Raises:
        ValueError: It is none of these, or no time at all.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhdw])", text)
    if match is None:
        raise ValueError(f"duration {text!r} is not a number and s, m, h, d or w, such as 30d")
    return int(match[1]) * _SECONDS[match[2]]


if __name__ == "__main__":
    main()
