"""Speaks to a service over HTTP, as hypeman's own tools do."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from hypeman_libvirt.endpoint import Endpoint, read_base_url

_OPENING: Final = 10.0
"""Seconds to open a connection."""
_READING: Final = 120.0
"""Seconds; an operation may take as long as libvirt does."""
_SILENCE: Final = 60.0
"""Seconds without a sign of life after which a stream of events is taken for dead."""
_PAUSE: Final = 1.0
"""Seconds before a stream that ended is opened again."""
_IGNORED: Final = "X-Ignored-Fields"

Connect = Callable[[Endpoint, float], http.client.HTTPConnection]
"""Opens a connection to an endpoint, in so many seconds."""


class RefusedError(Exception):
    """The service answered that it will not.

    Attributes:
        code: For programs, such as ``in_use``.
        message: For people, with the next step.
        details: Several reasons, if there are.
    """

    def __init__(self, code: str, message: str, details: Sequence[str]) -> None:
        """Store the answer."""
        super().__init__("\n".join([f"{message} ({code})", *details]))
        self.code = code
        self.message = message
        self.details = details


class UnreachableError(Exception):
    """No answer came, or none as the service gives."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One Server-Sent Event.

    Attributes:
        id: To resume after it.
        data: Its JSON.
    """

    id: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    ignored: str | None
    body: bytes


class ApiClient:
    """Asks the service at a URL."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        warn: Callable[[str], None] = lambda _: None,
        timeout: float = _READING,
        connect: Connect = Endpoint.connect,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open no connection yet.

        Args:
            base_url: See ``endpoint.read_base_url``.
            api_key: The bearer token; None where none is asked for.
            warn: Is called with fields that the service did not know.
            timeout: Seconds that an answer may take.
            connect: Opens connections.
            sleep: Waits before a stream is opened again.

        Raises:
            WrongBaseUrlError: The URL is none.
        """
        self._base_url = base_url
        self._endpoint = read_base_url(base_url)
        self._warn = warn
        self._timeout = timeout
        self._connect = connect
        self._sleep = sleep
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def get(self, path: str, **query: str | None) -> Any:  # noqa: ANN401 - JSON
        """Read."""
        return _as_json(self._ask("GET", _with_query(path, query)), self._unreachable)

    def get_text(self, path: str, **query: str | None) -> str:
        """Read what is no JSON."""
        return self._ask("GET", _with_query(path, query)).decode(errors="replace")

    def post(self, path: str, **body: object) -> Any:  # noqa: ANN401 - JSON
        """Change; fields that are None are left out."""
        return _as_json(self._ask("POST", path, body), self._unreachable)

    def put(self, path: str, **body: object) -> Any:  # noqa: ANN401 - JSON
        """Change to what is named."""
        return _as_json(self._ask("PUT", path, body), self._unreachable)

    def patch(self, path: str, **body: object) -> Any:  # noqa: ANN401 - JSON
        """Change what is named; fields that are None stay as they are."""
        return _as_json(self._ask("PATCH", path, body), self._unreachable)

    def delete(self, path: str, **query: str | None) -> None:
        """Remove."""
        self._ask("DELETE", _with_query(path, query))

    def events(self, last_event_id: str | None) -> Iterator[ServerEvent]:
        """Follow events for ever; a stream that breaks goes on where it ended.

        Raises:
            RefusedError: The service does not let this client listen.
            UnreachableError: There is no answer the first time.
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

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> bytes:
        given = {name: value for name, value in (body or {}).items() if value is not None}
        raw = None if body is None else json.dumps(given, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json"} if raw is not None else {}
        with closing(self._connect(self._endpoint, _OPENING)) as connection:
            try:
                answer = self._send(connection, method, path, raw, headers, self._timeout)
                read = _Answer(answer.status, answer.getheader(_IGNORED), answer.read())
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(_why(error, self._timeout)) from error
        self._check(path, read)
        if read.ignored:
            self._warn(f"the service ignored what it does not know: {read.ignored}")
        return read.body

    def _stream(self, last_event_id: str | None) -> Iterator[ServerEvent]:
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        path = "/devices/events"
        with closing(self._connect(self._endpoint, _OPENING)) as connection:
            try:
                answer = self._send(connection, "GET", path, None, headers, _SILENCE)
                if answer.status != http.client.OK:
                    self._check(path, _Answer(answer.status, None, answer.read()))
                yield from read_events(line.decode(errors="replace") for line in answer)
            except ValueError as error:
                raise self._unreachable("its events are no JSON") from error
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(_why(error, _SILENCE)) from error

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout: float,
    ) -> http.client.HTTPResponse:
        connection.connect()
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        where = self._endpoint.prefix + path
        connection.request(method, where, body, {**self._headers, **headers})
        return connection.getresponse()

    def _check(self, path: str, answer: _Answer) -> None:
        if http.client.OK <= answer.status < http.client.MULTIPLE_CHOICES:
            return
        try:
            body: Mapping[str, Any] = json.loads(answer.body)
            details = [f"  {each['message']}" for each in body.get("details", ())]
            raise RefusedError(str(body["code"]), str(body["message"]), details)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            said = f"{self._base_url} answered {path} with {answer.status}, not as this API does"
            raise UnreachableError(f"{said}; check --base-url") from error

    def _unreachable(self, why: str) -> UnreachableError:
        return UnreachableError(
            f"no service answers at {self._base_url}: {why}. "
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
        name, _, value = line.rstrip("\r\n").partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif not line.strip("\r\n") and "data" in fields:
            yield ServerEvent(fields.get("id", ""), json.loads(fields["data"]))
            fields = {}


def _with_query(path: str, query: Mapping[str, str | None]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _as_json(body: bytes, fail: Callable[[str], UnreachableError]) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(body) if body else None
    except ValueError as error:
        raise fail("its answer is no JSON") from error


def _why(error: Exception, timeout: float) -> str:
    """Say in words why there was no answer."""
    if isinstance(error, TimeoutError):
        return f"it said nothing for {timeout:g} seconds; what was asked for may still happen"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there; is it running?"
    if isinstance(error, FileNotFoundError):
        return "there is no such socket; is it running?"
    if isinstance(error, PermissionError):
        return "this user may not open its socket; use sudo, or the group of the socket"
    if isinstance(error, OSError):
        return error.strerror or str(error) or "the connection broke"
    return f"its answer is no HTTP ({type(error).__name__})"
