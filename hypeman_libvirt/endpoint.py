"""Where a service is: what ``--base-url`` takes."""

from __future__ import annotations

import http.client
import re
import socket
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

_FORMS: Final = "write http://host:port, https://host, host:port or unix:/path"
_BARE: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]+)?(/.*)?")


class WrongBaseUrlError(ValueError):
    """It is nothing that a service could be at."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address of HTTP.

    Attributes:
        scheme: ``http``, ``https`` or ``unix``.
        host: Name or IP address; ``localhost`` for a Unix socket.
        port: None for the scheme's own.
        path: Before every path of the API, without a slash at its end; of a Unix socket its file.
    """

    scheme: str
    host: str
    port: int | None
    path: str

    def connect(self, timeout: float) -> http.client.HTTPConnection:
        """Return a connection that is opened by its first request.

        Args:
            timeout: Seconds to open it.
        """
        if self.scheme == "unix":
            return UnixConnection(self.path, timeout)
        if self.scheme == "https":
            return http.client.HTTPSConnection(self.host, self.port, timeout=timeout)
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    @property
    def prefix(self) -> str:
        """What comes before every path of the API."""
        return "" if self.scheme == "unix" else self.path


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        """Open nothing yet."""
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Open it."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def read_base_url(text: str) -> Endpoint:
    """Read a URL, ``host:port`` without a scheme, or ``unix:/path``.

    Raises:
        WrongBaseUrlError: It is none of these.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").replace("//", "", 1)
        if not path.startswith("/"):
            raise WrongBaseUrlError(f"{text!r} has no absolute path; write unix:/path")
        return Endpoint("unix", "localhost", None, path)
    url = text if "://" in text or not _BARE.fullmatch(text) else f"http://{text}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise WrongBaseUrlError(f"{text!r} is no URL; {_FORMS}") from None
    if parts.scheme not in {"http", "https"} or not host or not host.isprintable():
        raise WrongBaseUrlError(f"{text!r} is no place of a service; {_FORMS}")
    if parts.query or parts.fragment or parts.username:
        raise WrongBaseUrlError(f"{text!r} has more than a place; {_FORMS}")
    return Endpoint(parts.scheme, host, port, parts.path.rstrip("/"))
