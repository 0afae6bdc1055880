"""The command ``hypeman-libvirt token``."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Final

import click

from hypeman_libvirt.cli import parameters
from hypeman_libvirt.cli.failures import explained
from hypeman_libvirt.cli.output import print_answer
from hypeman_libvirt.cli.world import CommandWorld, pass_world

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@click.command()
@click.option("--user-id", required=True, help="Whom the token is for: its subject.")
@click.option(
    "--duration",
    default="30d",
    show_default=True,
    help="How long it is good for: a number and s, m, h, d or w.",
)
@click.option(
    "--permissions",
    help="What it allows, separated by commas: device:read, device:write, device:delete, "
    "resource:read, host:write (on a hub) or *. Default: everything.",
)
@parameters.config
@parameters.as_json
@pass_world
def token(
    world: CommandWorld,
    user_id: str,
    duration: str,
    permissions: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Print a bearer token, signed with the secret of the settings."""
    import jwt

    from hypeman_libvirt.settings import SettingsError, load_settings

    with explained(SettingsError, ValueError):
        claims = make_claims(user_id, int(time.time()), duration, permissions)
        secret = load_settings(config, etc=world.etc).secret()
        signed = jwt.encode(claims, secret, algorithm="HS256")
    print_answer({"token": signed, **claims}, as_json, signed)


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
    from typing import get_args

    from hypeman_libvirt.rest.auth import Permission

    claims: dict[str, object] = {"sub": user_id, "iat": now, "exp": now + parse_duration(duration)}
    if permissions is None:
        return claims
    granted, known = [each.strip() for each in permissions.split(",")], (*get_args(Permission), "*")
    for each in granted:
        if each not in known:
            raise ValueError(f"there is no permission {each!r}; use {', '.join(known)}")
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
