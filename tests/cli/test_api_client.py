from __future__ import annotations

import http.client
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice

import pytest

from hypeman_libvirt.cli.api_client import (
    ApiClient,
    RefusedError,
    ServerEvent,
    UnreachableError,
    device_path,
    read_events,
)
from hypeman_libvirt.endpoint import Endpoint

EVENT = b'id: e-1\nevent: bound\ndata: {"type": "bound"}\n\n'
NEXT = b'id: e-2\nevent: unbound\ndata: {"type": "unbound"}\n\n'
REFUSED = {"code": "in_use", "message": "somebody has it", "details": [{"message": "vm-1 has it"}]}


@dataclass
class Request:
    method: str
    path: str
    body: bytes | None
    headers: Mapping[str, str]


@dataclass
class Reply:
    """What a server answers, as bytes on the wire."""

    status: int = 200
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def response(self) -> http.client.HTTPResponse:
        head = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        wire = f"HTTP/1.1 {self.status} x\r\n{head}\r\n".encode() + self.content
        response = http.client.HTTPResponse(_Socket(wire))  # type: ignore[arg-type]
        response.begin()
        return response


class _Socket:
    def __init__(self, wire: bytes) -> None:
        self._wire = wire

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._wire)


class Connection(http.client.HTTPConnection):
    """A connection to a server that is a function."""

    def __init__(self, answer: Callable[[Request], Reply]) -> None:
        super().__init__("service")
        self._answer = answer

    def connect(self) -> None:
        pass

    def request(self, method, url, body=None, headers=None, **_):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN003, ANN201
        self._request = Request(method, url, body, headers or {})

    def getresponse(self) -> http.client.HTTPResponse:
        return self._answer(self._request).response()


def as_json(body: object, status: int = 200) -> Reply:
    return Reply(status, json.dumps(body).encode())


def client(
    answer: Callable[[Request], Reply], warn: Callable[[str], None] = lambda _: None
) -> ApiClient:
    def connect(_: Endpoint, __: float) -> http.client.HTTPConnection:
        return Connection(answer)

    return ApiClient("http://service", "token", warn=warn, connect=connect, sleep=lambda _: None)


def test_a_stream_is_read_event_by_event() -> None:
    lines = [": listening", "", *EVENT.decode().split("\n"), ": nothing new", ""]
    assert list(read_events(lines)) == [ServerEvent("e-1", {"type": "bound"})]


def test_a_stream_that_breaks_goes_on_after_the_last_event() -> None:
    asked: list[str | None] = []

    def answer(request: Request) -> Reply:
        asked.append(request.headers.get("Last-Event-ID"))
        if len(asked) == 2:
            raise ConnectionRefusedError
        return Reply(content=EVENT if len(asked) == 1 else NEXT)

    seen = [event.id for event in islice(client(answer).events(None), 2)]
    assert seen == ["e-1", "e-2"]
    assert asked == [None, "e-1", "e-1"]


def test_who_is_refused_does_not_listen_on() -> None:
    with pytest.raises(RefusedError):
        list(client(lambda _: as_json(REFUSED, 403)).events(None))


def test_events_that_are_no_json_are_no_service() -> None:
    broken = Reply(content=b"id: e-1\ndata: <html>\n\n")
    with pytest.raises(UnreachableError, match="no JSON"):
        next(client(lambda _: broken).events(None))


def test_a_refusal_says_code_message_and_reasons() -> None:
    with pytest.raises(RefusedError) as refused:
        client(lambda _: as_json(REFUSED, 409)).post("/devices/x/bind")
    assert refused.value.code == "in_use"
    assert str(refused.value) == "somebody has it (in_use)\n  vm-1 has it"


@pytest.mark.parametrize(
    "answer",
    [
        Reply(502, b"<html>bad gateway</html>"),
        as_json({"detail": "Not Found"}, 404),
        as_json(["code"], 404),
        Reply(200, b"<html>another server</html>"),
        Reply(301, b"", {"Location": "http://elsewhere/"}),
    ],
)
def test_another_server_is_none(answer: Reply) -> None:
    with pytest.raises(UnreachableError, match="--base-url"):
        client(lambda _: answer).get("/devices")


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "nobody listens there; is it running"),
        (TimeoutError(), "it said nothing for 120 seconds; what was asked for may still happen"),
        (FileNotFoundError(2, "No such file"), "there is no such socket"),
        (PermissionError(13, "Permission denied"), "this user may not open its socket; use sudo"),
        (OSError(-2, "Name or service not known"), "Name or service not known"),
        (http.client.BadStatusLine("SSH-2.0"), "its answer is no HTTP (BadStatusLine)"),
    ],
)
def test_why_nobody_answered_is_a_sentence(failure: Exception, told: str) -> None:
    def answer(_: Request) -> Reply:
        raise failure

    with pytest.raises(UnreachableError) as refused:
        client(answer).get("/devices")
    assert str(refused.value).startswith(f"no service answers at http://service: {told}")


def test_what_is_not_given_is_not_sent() -> None:
    sent: list[Request] = []

    def answer(request: Request) -> Reply:
        sent.append(request)
        return as_json({})

    api = client(answer)
    api.post("/devices", pci_address="0000:a2:00.0", name=None)
    api.get("/devices/x/preflight", instance=None, scope="group")
    posted, got = sent
    assert posted.body == b'{"pci_address":"0000:a2:00.0"}'
    assert posted.headers["Content-Type"] == "application/json"
    assert got.path == "/devices/x/preflight?scope=group"
    assert got.body is None
    assert got.headers["Authorization"] == "Bearer token"


def test_fields_that_the_service_ignored_are_shown() -> None:
    warned: list[str] = []
    ignored = Reply(content=b"{}", headers={"X-Ignored-Fields": "nmae (name)"})
    client(lambda _: ignored, warned.append).post("/devices", nmae="x")
    assert warned == ["the service ignored what it does not know: nmae (name)"]


def test_a_name_cannot_lead_elsewhere() -> None:
    assert device_path("../x?y", "bind") == "/devices/..%2Fx%3Fy/bind"
