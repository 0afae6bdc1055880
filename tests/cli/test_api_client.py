from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import httpx
import pytest

from hypeman_libvirt.cli.api_client import (
    ApiClient,
    RefusedError,
    ServerEvent,
    UnreachableError,
    device_path,
    read_events,
)

EVENT = b'id: e-1\nevent: bound\ndata: {"type": "bound"}\n\n'
NEXT = b'id: e-2\nevent: unbound\ndata: {"type": "unbound"}\n\n'
REFUSED = {"code": "in_use", "message": "somebody has it", "details": [{"message": "vm-1 has it"}]}


def client(answer: Callable[[httpx.Request], httpx.Response]) -> ApiClient:
    return ApiClient("http://service", "token", httpx.MockTransport(answer), sleep=lambda _: None)


def test_a_stream_is_read_event_by_event() -> None:
    lines = [": listening", "", *EVENT.decode().split("\n"), ": nothing new", ""]
    assert list(read_events(lines)) == [ServerEvent("e-1", {"type": "bound"})]


def test_a_stream_that_breaks_goes_on_after_the_last_event() -> None:
    asked: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("Last-Event-ID"))
        if len(asked) == 2:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, content=EVENT if len(asked) == 1 else NEXT)

    with client(answer) as api:
        seen = [event.id for event in islice(api.events(None), 2)]
    assert seen == ["e-1", "e-2"]
    assert asked == [None, "e-1", "e-1"]


def test_who_is_refused_does_not_listen_on() -> None:
    with client(lambda _: httpx.Response(403, json=REFUSED)) as api, pytest.raises(RefusedError):
        list(api.events(None))


def test_a_refusal_says_code_message_and_reasons() -> None:
    with (
        client(lambda _: httpx.Response(409, json=REFUSED)) as api,
        pytest.raises(RefusedError) as refused,
    ):
        api.post("/devices/x/bind")
    assert refused.value.code == "in_use"
    assert str(refused.value) == "somebody has it (in_use)\n  vm-1 has it"


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(502, text="<html>bad gateway</html>"),
        httpx.Response(404, json={"detail": "Not Found"}),
        httpx.Response(200, text="<html>another server</html>"),
    ],
)
def test_another_server_is_none(answer: httpx.Response) -> None:
    with client(lambda _: answer) as api, pytest.raises(UnreachableError, match="--base-url"):
        api.get("/devices")


def test_what_is_not_given_is_not_sent() -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={})

    with client(answer) as api:
        api.post("/devices", pci_address="0000:a2:00.0", name=None)
        api.get("/devices/x/preflight", instance=None, scope="group")
    posted, got = sent
    assert posted.content == b'{"pci_address":"0000:a2:00.0"}'
    assert str(got.url) == "http://service/devices/x/preflight?scope=group"
    assert got.headers["Authorization"] == "Bearer token"


def test_a_name_cannot_lead_elsewhere() -> None:
    assert device_path("../x?y", "bind") == "/devices/..%2Fx%3Fy/bind"
