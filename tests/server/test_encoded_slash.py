"""A slash that a client hides in a reference, as far as a WSGI server lets anybody see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from wsgiref.types import WSGIApplication

import pytest
from falcon.testing import StartResponseMock, TestClient, create_environ

from hypeman_libvirt.rest.auth import NoAuth
from tests.api.whole_app import whole_app
from tests.fake_host import FakeHost
from tests.server.test_server import exchange
from tests.world import OPERATOR, World, world_on

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost
    from tests.server.running import RunningServer

GPU = "0000:a2:00.0"


@pytest.fixture
def world(libvirt_host: LibvirtHost, tmp_path: Path) -> Iterator[World]:
    with world_on(libvirt_host, tmp_path) as world:
        world.service.register(GPU, "l4", {}, OPERATOR)
        yield world


@pytest.fixture
def app(world: World) -> WSGIApplication:
    return whole_app(world, NoAuth())


PATHS = (
    ("POST", "/devices/l4%2Fbind"),
    ("POST", "/devices%2fl4/bind"),
    ("POST", "/devices%2Fl4%2Fbind?x=y"),
    ("GET", "/devices%2Favailable"),
    ("GET", "/devices/l4%2Fpreflight"),
    ("DELETE", "/devices%2Fl4"),
    ("GET", "/iommu-groups%2F82"),
    ("GET", "/%2Fhealth"),
)


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_the_server_answers_that_there_is_no_such_path(
    start: Callable[..., RunningServer],
    app: WSGIApplication,
    world: World,
    fake_host: FakeHost,
    method: str,
    path: str,
) -> None:
    request = f"{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    head, body = exchange(start(app), request.encode())
    assert head.startswith(b"HTTP/1.1 404")
    assert b'"not_found"' in body
    assert fake_host.driver(GPU) == "nvidia"
    assert len(world.service.inventory.list_devices({})) == 1


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_falcons_own_client_is_answered_alike(app: WSGIApplication, method: str, path: str) -> None:
    path, _, query = path.partition("?")
    answer = TestClient(app).simulate_request(method, path, query_string=query)
    assert (answer.status_code, answer.json["code"]) == (404, "not_found")


def test_a_slash_in_the_query_is_no_part_of_the_path(app: WSGIApplication) -> None:
    answer = TestClient(app).simulate_get("/devices", query_string="tags%5Bteam%5D=a%2Fb")
    assert (answer.status_code, answer.json) == (200, [])


@pytest.mark.parametrize("key", ["RAW_URI", "REQUEST_URI"])
def test_one_server_says_it_in_this_word_and_another_in_that(
    app: WSGIApplication, fake_host: FakeHost, key: str
) -> None:
    assert bind_through(app, **{key: "/devices/l4%2Fbind"}).startswith("404")
    assert fake_host.driver(GPU) == "nvidia"


def test_behind_a_server_that_hides_the_raw_path_nobody_can_tell(
    app: WSGIApplication, fake_host: FakeHost
) -> None:
    """``PATH_INFO`` is decoded, so that both spellings are one: PEP 3333 asks for no other."""
    assert bind_through(app).startswith("200")
    assert fake_host.driver(GPU) == "vfio-pci"


def bind_through(app: WSGIApplication, **said: str) -> str:
    """Send what a server makes of ``POST /devices/l4%2Fbind``; return the status."""
    environ = create_environ(method="POST", path="/devices/l4/bind")
    del environ["RAW_URI"]
    started = StartResponseMock()
    list(app(environ | said, started))
    return started.status or ""
