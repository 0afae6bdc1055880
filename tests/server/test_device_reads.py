"""The read that goes past the framework is answered, logged and counted as the app does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hypeman_libvirt.rest.auth import BearerAuth
from hypeman_libvirt.server.asgi import call, make_environ
from hypeman_libvirt.server.device_reads import DeviceReads
from tests.api.client import SECRET, token
from tests.world import OPERATOR, World, world_on

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost
    from hypeman_libvirt.rest.access_log import AccessLog
    from hypeman_libvirt.server.answers import HttpAnswer

READER = f"Bearer {token(sub='alice', permissions=['device:read'])}"
WRITER = f"Bearer {token(permissions=['device:write'])}"


class Both:
    """The app and the reads past it, with the lines of either."""

    def __init__(self, world: World) -> None:
        from hypeman_libvirt.bootstrap import build_app  # noqa: PLC0415  # after the level

        auth = BearerAuth(SECRET)
        self.lines: list[dict[str, Any]] = []
        self.app: AccessLog = build_app(
            world.settings, world.base, world.service, auth, self.lines.append
        )
        self.reads = DeviceReads(world.service.inventory, auth, self.app)

    def of_the_app(self, scope: dict[str, Any]) -> HttpAnswer:
        return call(self.app, make_environ(scope, b""))


def scope(path: str, *headers: tuple[str, str]) -> dict[str, Any]:
    sent = [("host", "h"), ("x-request-id", "r-1"), *headers]
    return {
        "type": "http",
        "method": "GET",
        "raw_path": path.encode(),
        "query_string": b"",
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", "8080"),
        "client": ("192.0.2.7", "40000"),
        "headers": [(name.encode(), value.encode()) for name, value in sent],
    }


@pytest.fixture
def both(libvirt_host: LibvirtHost, tmp_path: Path) -> Iterator[Both]:
    with world_on(libvirt_host, tmp_path) as world:
        world.service.register("0000:a2:00.0", "l4", {}, OPERATOR)
        yield Both(world)


@pytest.mark.parametrize("reference", ["l4", "0000:a2:00.0", "pci_0000_a2_00_0"])
def test_it_is_the_apps_answer_and_line(both: Both, reference: str) -> None:
    asked = scope(f"/devices/{reference}", ("authorization", READER))
    answer, expected = both.reads(asked), both.of_the_app(asked)
    assert answer is not None
    assert (answer.status, answer.body) == (200, expected.body)
    assert sorted(answer.headers) == sorted(expected.headers)
    answer.close()
    expected.close()
    line, expected_line = both.lines
    assert line.pop("seconds") > 0
    assert expected_line.pop("seconds") > 0
    assert line == expected_line
    assert list(line) == list(expected_line)
    assert line["subject"] == "alice"


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/devices/l4", []),
        ("/devices/l4", [("authorization", WRITER)]),
        ("/devices/l4", [("authorization", READER), ("authorization", READER)]),
        ("/devices/nobody", [("authorization", READER)]),
        ("/devices/l4%2Fbind", [("authorization", READER)]),
        ("/devices/l4/preflight", [("authorization", READER)]),
        ("/devices/available", [("authorization", READER)]),
        ("/devices/topology", [("authorization", READER)]),
        ("/devices/", [("authorization", READER)]),
        ("/health", []),
    ],
)
def test_all_else_is_left_to_the_app(both: Both, path: str, headers: list[tuple[str, str]]) -> None:
    assert both.reads(scope(path, *headers)) is None
    assert not both.lines


def test_a_read_is_counted_under_its_route(both: Both) -> None:
    answer = both.reads(scope("/devices/l4", ("authorization", READER)))
    assert answer is not None
    answer.close()
    metrics = both.of_the_app(
        scope("/metrics", ("authorization", f"Bearer {token(permissions=['resource:read'])}"))
    )
    assert metrics.body is not None
    counted = 'hypeman_libvirt_http_request_duration_seconds_count{method="GET",'
    assert counted + 'route="/devices/{reference}",status="200"} 1.0' in metrics.body.decode()
