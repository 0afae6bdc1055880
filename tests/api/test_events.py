"""Events as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.api.client import Api, Streamed, bearer, code_of
from tests.api.document import schema_errors
from tests.fake_host import FakeHost
from tests.world import World

L4 = "0000:a2:00.0"


def events_in(stream: Streamed) -> Iterator[tuple[str, str, dict[str, str | None]]]:
    """Read id, type and data of each event; comments are signs of life."""
    for chunk in stream.body:
        if not chunk.startswith(b":"):
            fields = dict(line.split(": ", 1) for line in chunk.decode().splitlines() if line)
            data = json.loads(fields["data"])
            assert not schema_errors("/components/schemas/Event", data)
            assert fields["event"] == data["type"]
            yield fields["id"], fields["event"], data


def test_a_listener_sees_what_the_api_and_virsh_do(api: Api, fake_host: FakeHost) -> None:
    with api.stream("/devices/events", bearer()) as stream:
        events = events_in(stream)
        device = api.post("/devices", {"pci_address": L4, "name": "l4-gpu"}).json
        _, event, data = next(events)
        assert event == "registered"
        assert (data["id"], data["name"], data["pci_address"]) == (device["id"], "l4-gpu", L4)
        api.post("/devices/l4-gpu/bind")
        _, event, data = next(events)
        assert (event, data["current_driver"]) == ("bound", "vfio-pci")
        fake_host.virsh_attach("vm-off", L4, live=False)
        _, event, data = next(events)
        assert (event, data["attached_to"]) == ("attached", fake_host.guest("vm-off").uuid)


def test_the_stream_begins_at_once_and_passes_proxies(api: Api) -> None:
    with api.stream("/devices/events", bearer()) as stream:
        assert stream.status_code == 200
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-cache"
        assert stream.headers["x-accel-buffering"] == "no"
        assert stream.headers["x-request-id"]
        assert next(stream.body).startswith(b":")


def test_a_silent_stream_shows_signs_of_life(api: Api) -> None:
    with api.stream("/devices/events", bearer()) as stream:
        next(stream.body)
        assert next(stream.body).startswith(b":")


def test_a_client_that_comes_back_gets_what_it_missed(api: Api) -> None:
    with api.stream("/devices/events", bearer()) as stream:
        api.post("/devices", {"pci_address": L4, "name": "l4-gpu"})
        last, _, _ = next(events_in(stream))
    with api.stream("/devices/events", bearer()):
        api.delete("/devices/l4-gpu")
    with api.stream("/devices/events", bearer() | {"Last-Event-ID": last}) as stream:
        _, event, data = next(events_in(stream))
        assert (event, data["name"]) == ("unregistered", "l4-gpu")


def test_a_listener_too_many_is_refused_and_one_that_left_makes_room(api: Api) -> None:
    alice, bob = bearer(sub="alice"), bearer(sub="bob")
    with api.stream("/devices/events", alice):
        with api.stream("/devices/events", bob):
            answer = api.get("/devices/events")
            assert code_of(answer) == (503, "too_many_listeners")
            assert answer.headers["Retry-After"] == "10"
        with api.stream("/devices/events", bob) as stream:
            assert stream.status_code == 200


@pytest.mark.parametrize("claims", [{"sub": "alice"}, {"sub": ""}])
def test_one_caller_takes_no_more_than_half_of_the_places(api: Api, claims: dict[str, str]) -> None:
    greedy = bearer(**claims)
    with api.stream("/devices/events", greedy), api.stream("/devices/events", greedy) as second:
        assert second.status_code == 503
        with api.stream("/devices/events", bearer(sub="bob")) as other:
            assert other.status_code == 200


def test_a_stream_ends_when_its_token_does(api: Api, world: World) -> None:
    expires = datetime(2200, 1, 1, tzinfo=UTC)
    with api.stream("/devices/events", bearer(exp=int(expires.timestamp()))) as stream:
        assert next(stream.body).startswith(b":")
        assert next(stream.body).startswith(b":")
        world.now = expires
        assert list(stream.body) == []


def test_a_token_for_ever_so_long_follows(api: Api) -> None:
    with api.stream("/devices/events", bearer(exp=10**400)) as stream:
        assert next(stream.body).startswith(b":")


def test_a_stream_that_was_never_read_makes_room_too(api: Api) -> None:
    for _ in range(5):
        with api.stream("/devices/events", bearer()) as stream:
            assert stream.status_code == 200


def test_a_stream_ends_with_the_service(api: Api, world: World) -> None:
    with api.stream("/devices/events", bearer()) as stream:
        assert next(stream.body).startswith(b":")
        world.service.event_feed.close()
        assert [chunk for chunk in stream.body if not chunk.startswith(b":")] == []


@pytest.mark.parametrize("call", ["domainEventRegisterAny", "nodeDeviceEventRegisterAny"])
@pytest.mark.parametrize(("code", "domain"), [(88, 55), (38, 7)])
def test_events_that_libvirt_refuses_stop_neither_answers_nor_the_stream(
    api: Api, fake_host: FakeHost, call: str, code: int, domain: int
) -> None:
    fake_host.refuse(call, code, domain)
    api.post("/devices", {"pci_address": L4, "name": "l4-gpu"})
    with api.stream("/devices/events", bearer()) as stream:
        fake_host.drop_connections()  # so that the thread that looks registers anew
        fake_host.virsh_attach("vm-off", L4, live=False)
        _, event, _ = next(events_in(stream))
        assert event == "attached"
        assert api.get("/devices/l4-gpu").json["attached_to"] == fake_host.guest("vm-off").uuid
