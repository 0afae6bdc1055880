"""Speaks to a service over HTTP, as hypeman's own tools do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

_TIMEOUT: Final = httpx.Timeout(10.0, read=120.0)
"""Seconds; an operation may take as long as libvirt does."""
_SILENCE: Final = 60.0
"""Seconds without a sign of life after which a stream of events is taken for dead."""
_PAUSE: Final = 1.0
"""Seconds before a stream that ended is opened again."""


class RefusedError(Exception):
    """The service answered that it will not.

    Attributes:
        code: For programs, such as ``in_use``.
        message: For people, with the next step.
        details: Several reasons, if there are.
    """

    def __init__(self, code: str, message: str, details: Sequence[str]) -> None:
        """Keep the answer."""
        super().__init__("\n".join([f"{message} ({code})", *details]))
        self.code = code
        self.message = message
        self.details = details


class UnreachableError(Exception):
    """Nobody answered as the service does."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One Server-Sent Event.

    Attributes:
        id: To resume after it.
        data: Its JSON.
    """

    id: str
    data: dict[str, Any]


class ApiClient:
    """Asks the service at a URL."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open no connection yet.

        Args:
            base_url: Such as ``http://127.0.0.1:8080``.
            api_key: The bearer token; None where none is asked for.
            transport: Of httpx; None for the network.
            sleep: Waits before a stream is opened again.
        """
        self._base_url = base_url
        self._sleep = sleep
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            base_url=base_url, headers=headers, timeout=_TIMEOUT, transport=transport
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **query: str | None) -> Any:  # noqa: ANN401 - JSON
        """Read."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._ask("GET", path, params=given)

    def post(self, path: str, **body: object) -> Any:  # noqa: ANN401 - JSON
        """Change; fields that are None are left out."""
        given = {name: value for name, value in body.items() if value is not None}
        return self._ask("POST", path, json=given)

    def delete(self, path: str, **query: str | None) -> None:
        """Remove."""
        given = {name: value for name, value in query.items() if value is not None}
        self._ask("DELETE", path, params=given)

    def events(self, last_event_id: str | None) -> Iterator[ServerEvent]:
        """Follow events for ever; a stream that breaks goes on where it ended.

        Raises:
            RefusedError: The service does not let this client listen.
            UnreachableError: Nobody answers the first time.
        """
        for event in self._stream(last_event_id):
            last_event_id = event.id
            yield event
        while True:
            self._sleep(_PAUSE)
            try:
                for event in self._stream(last_event_id):
                    last_event_id = event.id
                    yield event
            except UnreachableError:
                continue

    def _ask(self, method: str, path: str, **options: Any) -> Any:  # noqa: ANN401
        try:
            answer = self._http.request(method, path, **options)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        _check(answer)
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise self._unreachable("its answer is no JSON") from error

    def _stream(self, last_event_id: str | None) -> Iterator[ServerEvent]:
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        try:
            with self._http.stream(
                "GET", "/devices/events", headers=headers, timeout=_SILENCE
            ) as answer:
                if not answer.is_success:
                    answer.read()
                _check(answer)
                yield from read_events(answer.iter_lines())
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, why: object) -> UnreachableError:
        return UnreachableError(
            f"no service answers at {self._base_url}: {why}; is it running? "
            "Name another place with --base-url or HYPEMAN_BASE_URL"
        )


def device_path(reference: str, *parts: str) -> str:
    """Return the path of a device, or of something below it."""
    return "/".join(["/devices", quote(reference, safe=""), *parts])


def read_events(lines: Iterable[str]) -> Iterator[ServerEvent]:
    """Read a stream of events.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if line and name:
            fields[name] = value.removeprefix(" ")
        elif not line and "data" in fields:
            yield ServerEvent(fields.get("id", ""), json.loads(fields["data"]))
            fields = {}


def _check(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    try:
        body: Mapping[str, Any] = answer.json()
        details = [f"  {each['message']}" for each in body.get("details", ())]
        raise RefusedError(body["code"], body["message"], details)
    except (ValueError, KeyError, TypeError) as error:
        told = f"{answer.request.url} answered {answer.status_code}, and not as this API does"
        raise UnreachableError(f"{told}; check --base-url") from error
