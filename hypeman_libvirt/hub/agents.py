"""Speaks to agents: what a client asked of a device goes to the host that has it."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from hypeman_libvirt.devices.errors import HostUnreachableError
from hypeman_libvirt.endpoint import Endpoint, WrongBaseUrlError, read_base_url
from hypeman_libvirt.hub.model import HostRecord
from hypeman_libvirt.hub.tokens import TokenMaker
from hypeman_libvirt.rest.auth import Access

_OPENING: Final = 5.0
"""Seconds to open a connection to an agent."""
_MORE_THAN_AN_OPERATION: Final = 15.0
"""Seconds beyond an agent's ``operation_timeout`` after which its answer is given up."""
_MOST_BYTES: Final = 16 * 1024 * 1024

Connect = Callable[[Endpoint, float], http.client.HTTPConnection]
"""Opens a connection to an endpoint, in so many seconds."""


@dataclass(frozen=True, slots=True)
class Call:
    """What an agent is asked.

    Attributes:
        method: Of HTTP.
        path: With its query.
        access: The permission that it needs, and the only one that the agent is told of.
        subject: On whose behalf.
        body: JSON; empty for none.
        headers: Of the client's request that mean something to the agent.
    """

    method: str
    path: str
    access: Access
    subject: str | None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """What an agent has answered.

    Attributes:
        status: Of HTTP.
        headers: By their names in lower case.
        body: As it came.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether it was done."""
        return self.status < 300  # noqa: PLR2004 - HTTP's own

    def read_json(self) -> dict[str, Any]:
        """Return the JSON object in it; an empty one where there is none."""
        try:
            document = json.loads(self.body or b"{}")
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    @property
    def code(self) -> str:
        """Return the error's code; empty for a success."""
        return "" if self.is_success else str(self.read_json().get("code", "internal_error"))

    @property
    def message(self) -> str:
        """Return what the agent says of its error."""
        return str(self.read_json().get("message", f"HTTP status {self.status}"))


class Agents:
    """Calls agents over HTTPS, with a client certificate and a token of a minute."""

    def __init__(
        self,
        tokens: TokenMaker,
        tls: ssl.SSLContext | None,
        operation_timeout: float,
        connect: Connect | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            tokens: Signs for each call.
            tls: Knows the agents' authority and has the hub's certificate.
            operation_timeout: Seconds that agents give an operation.
            connect: Opens connections; None for those of the endpoint's scheme.
        """
        self._tokens = tokens
        self._tls = tls
        self._patience = operation_timeout + _MORE_THAN_AN_OPERATION
        self._connect = connect or self._open

    def call(self, host: HostRecord, call: Call) -> AgentAnswer:
        """Ask an agent.

        Raises:
            HostUnreachableError: It gave no answer; whether it has done anything is not known.
        """
        token = self._tokens.sign(
            host, call.subject, [] if call.access == "identified" else [call.access]
        )
        headers = {**call.headers, "Authorization": f"Bearer {token}", "Connection": "close"}
        if call.body:
            headers["Content-Type"] = "application/json"
        try:
            endpoint = read_base_url(host.url)
            with closing(self._connect(endpoint, _OPENING)) as connection:
                connection.connect()
                if connection.sock is not None:
                    connection.sock.settimeout(self._patience)
                path = endpoint.prefix + call.path
                connection.request(call.method, path, call.body or None, headers)
                answer = connection.getresponse()
                return AgentAnswer(
                    answer.status,
                    {name.lower(): value for name, value in answer.getheaders()},
                    answer.read(_MOST_BYTES),
                )
        except (OSError, http.client.HTTPException, WrongBaseUrlError) as error:
            raise unreachable(host, error) from error

    def _open(self, endpoint: Endpoint, timeout: float) -> http.client.HTTPConnection:
        if endpoint.scheme == "https":
            return http.client.HTTPSConnection(
                endpoint.host, endpoint.port, timeout=timeout, context=self._tls
            )
        return endpoint.connect(timeout)


def unreachable(host: HostRecord, error: Exception) -> HostUnreachableError:
    """Say that an agent gave no answer."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return HostUnreachableError(
        f"the agent of host {host.name} gave no answer ({reason or type(error).__name__})",
        hint="what was asked for may have happened; GET the device when its host is up again",
    )
