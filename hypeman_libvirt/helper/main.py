"""The command ``hypeman-libvirt-helper``: root's few writes, for the service alone."""

from __future__ import annotations

import argparse
import logging
import os
import pwd
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from hypeman_libvirt.helper.actions import Actions
from hypeman_libvirt.helper.responder import Responder
from hypeman_libvirt.helper.server import HelperServer
from hypeman_libvirt.version import __version__

_FIRST_DESCRIPTOR: Final = 3
"""Of the sockets that systemd passes. Source: sd_listen_fds(3)."""
_QUEUE: Final = 16
_SOCKET_MODE: Final = 0o660


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until idle."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    user = _user(options.user)
    listener = passed_socket(os.environ) if options.socket is None else _bind(options.socket, user)
    if listener is None:
        sys.exit(
            "hypeman-libvirt-helper: systemd starts it with a socket: systemctl enable --now "
            "hypeman-libvirt-helper.socket; without systemd give --socket PATH"
        )
    with listener:
        HelperServer(listener, Responder(Actions(), {0, user.pw_uid})).serve_until_idle()


def passed_socket(environment: Mapping[str, str]) -> socket.socket | None:
    """Return the socket that systemd has passed; None without one."""
    of_us = environment.get("LISTEN_PID") == str(os.getpid())
    if not of_us or environment.get("LISTEN_FDS") != "1":
        return None
    return socket.socket(fileno=_FIRST_DESCRIPTOR)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hypeman-libvirt-helper",
        description="Makes the few writes of hypeman-libvirt that need root. systemd starts it.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--user", default="hypeman-libvirt", help="Who may ask, beside root.")
    parser.add_argument("--socket", type=Path, help="Listen here, where there is no systemd.")
    return parser


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        sys.exit(f"hypeman-libvirt-helper: there is no user {name}; give --user NAME")


def _bind(path: Path, user: pwd.struct_passwd) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.unlink(missing_ok=True)
    old = os.umask(0o777)
    try:
        listener.bind(str(path))
    finally:
        os.umask(old)
    os.chown(path, 0, user.pw_gid)
    path.chmod(_SOCKET_MODE)
    listener.listen(_QUEUE)
    return listener


if __name__ == "__main__":
    main()
