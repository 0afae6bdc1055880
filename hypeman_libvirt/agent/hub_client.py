"""Speaks to a hub, over one connection that stays open between reports."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from hypeman_libvirt.devices.errors import HostUnreachableError
from hypeman_libvirt.endpoint import Endpoint, WrongBaseUrlError, read_base_url
from hypeman_libvirt.hub.protocol import MAX_REPORT

_PATIENCE: Final = 30.0
"""Seconds for a hub to answer."""

Connect = Callable[[Endpoint, float], http.client.HTTPConnection]


@dataclass(frozen=True, slots=True)
class HubAnswer:
    """What a hub has answered.

    Attributes:
        status: Of HTTP.
        body: A JSON object; empty where there is none.
    """

    status: int
    body: dict[str, Any]

    @property
    def code(self) -> str:
        """Return the error's code; empty for a success."""
        return "" if self.status < 300 else str(self.body.get("code", ""))  # noqa: PLR2004 - HTTP's

    @property
    def message(self) -> str:
        """Return what the hub says of its error."""
        return str(self.body.get("message", f"HTTP status {self.status}"))


class HubClient:
    """Sends messages to a hub; for one thread."""

    def __init__(
        self, url: str, tls: ssl.SSLContext | None, connect: Connect | None = None
    ) -> None:
        """Open nothing yet.

        Args:
            url: Of the hub.
            tls: Knows the authority of its certificate.
            connect: Opens connections; None for those of the URL's scheme.
        """
        self._url = url
        self._tls = tls
        self._connect = connect or self._open
        self._connection: http.client.HTTPConnection | None = None

    def post(self, path: str, message: BaseModel, key: str | None = None) -> HubAnswer:
        """Send a message.

        A connection that was open already may have been closed by the hub meanwhile; the message
        is then sent once more, which the hub recognizes.

        Raises:
            HostUnreachableError: No answer came; whether the hub has read it is not known.
        """
        was_open = self._connection is not None
        body = message.model_dump_json(exclude_unset=True).encode()
        try:
            try:
                return self._send(path, body, key)
            except (OSError, http.client.HTTPException):
                self.close()
                if not was_open:
                    raise
                return self._send(path, body, key)
        except (OSError, http.client.HTTPException, WrongBaseUrlError) as error:
            self.close()
            reason = str(error) or type(error).__name__
            raise HostUnreachableError(
                f"the hub at {self._url} gave no answer ({reason})"
            ) from error

    def close(self) -> None:
        """Close the connection; the next message opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _send(self, path: str, body: bytes, key: str | None) -> HubAnswer:
        endpoint = read_base_url(self._url)
        if self._connection is None:
            self._connection = self._connect(endpoint, _PATIENCE)
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        self._connection.request("POST", endpoint.prefix + path, body, headers)
        answer = self._connection.getresponse()
        raw = answer.read(MAX_REPORT)
        try:
            document = json.loads(raw or b"{}")
        except ValueError:
            document = {}
        return HubAnswer(answer.status, document if isinstance(document, dict) else {})

    def _open(self, endpoint: Endpoint, timeout: float) -> http.client.HTTPConnection:
        if endpoint.scheme == "https":
            return http.client.HTTPSConnection(
                endpoint.host, endpoint.port, timeout=timeout, context=self._tls
            )
        return endpoint.connect(timeout)
