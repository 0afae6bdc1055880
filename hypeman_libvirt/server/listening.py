"""The socket that is served on."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hypeman_libvirt.settings import SettingsError, split_listen


def listen(where: str) -> socket.socket:
    """Bind ``host:port``, ``[ipv6]:port`` or ``unix:/path``; the latter with mode 0600.

    Raises:
        SettingsError: Somebody else serves there, or the address is not this machine's.
    """
    place = split_listen(where)
    try:
        return _listen_unix(place) if isinstance(place, Path) else _listen_tcp(*place)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {where}: {error.strerror}; choose another address with --listen"
        ) from error


@contextmanager
def remove_own_socket(where: str) -> Iterator[None]:
    """Remove a Unix socket at the end, unless it is that of a service that was started meanwhile.

    Args:
        where: As of ``listen``, which has bound it.
    """
    place = split_listen(where)
    if not isinstance(place, Path):
        yield
        return
    bound = os.open(place, os.O_PATH)  # so that no other file gets its inode's number
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(bound), place.lstat()):
                place.unlink()
        os.close(bound)


def url_of(listener: socket.socket, *, tls: bool = False) -> str:
    """Return where clients find a listening socket."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if listener.family == socket.AF_INET6 else name[0]
    return f"http{'s' if tls else ''}://{host}:{name[1]}"


def _listen_tcp(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    both = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address[:2], family=family, dualstack_ipv6=both)


def _listen_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        mask = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(mask)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Remove the socket of a service that was killed; one that answers stays."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
