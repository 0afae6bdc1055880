"""Our routes in an app that someone else owns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import falcon
import pytest
from falcon.testing import TestClient

from hypeman_libvirt.rest.auth import BearerAuth
from tests.api.client import SECRET, Api, bearer, code_of
from tests.world import World, world_on

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost

L4 = "0000:a2:00.0"


def mount(app: falcon.App[falcon.Request, falcon.Response], world: World, prefix: str = "") -> None:
    from hypeman_libvirt.bootstrap import init_app  # noqa: PLC0415  # after the level was chosen

    init_app(app, world.service, prefix, auth=BearerAuth(SECRET), settings=world.settings)


class Theirs:
    """A resource of the owner's."""

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        resp.text = "theirs"

    def on_post(self, _req: falcon.Request, _resp: falcon.Response) -> None:
        raise KeyError("theirs")


class Trace:
    """A middleware of the owner's."""

    def __init__(self) -> None:
        self.seen: list[str | None] = []

    def process_response(
        self, req: falcon.Request, _resp: falcon.Response, _resource: object, _ok: bool
    ) -> None:
        self.seen.append(req.uri_template)


def on_any_error(
    _req: falcon.Request, resp: falcon.Response, error: Exception, _params: object
) -> None:
    resp.status = falcon.HTTP_418
    resp.text = f"their handler: {type(error).__name__}"


@pytest.fixture
def trace() -> Trace:
    return Trace()


@pytest.fixture
def theirs(
    libvirt_host: LibvirtHost, tmp_path: Path, trace: Trace
) -> Iterator[falcon.App[falcon.Request, falcon.Response]]:
    """An app with a route, a middleware and error handlers of its own."""
    with world_on(libvirt_host, tmp_path) as world:
        app = falcon.App(middleware=trace, media_type="application/vnd.theirs")
        app.add_error_handler(Exception, on_any_error)
        app.add_error_handler(falcon.HTTPError, on_any_error)
        app.add_route("/health", Theirs())
        mount(app, world, "/v1")
        yield app


def test_our_paths_answer_as_documented(
    theirs: falcon.App[falcon.Request, falcon.Response], trace: Trace
) -> None:
    api = Api(theirs, prefix="/v1")
    assert api.post("/devices", {"pci_address": L4, "name": "l4-gpu"}).status_code == 201
    assert api.get("/devices/l4-gpu").status_code == 200
    assert code_of(api.get("/devices/other")) == (404, "not_found")
    assert code_of(api.post("/devices", [])) == (400, "bad_request")
    assert code_of(api.send("PUT", "/devices")) == (405, "method_not_allowed")
    assert code_of(api.get("/devices", headers={})) == (401, "unauthorized")
    assert trace.seen[:2] == ["/v1/devices", "/v1/devices/{reference}"]


def test_their_paths_keep_their_own_ways(
    theirs: falcon.App[falcon.Request, falcon.Response],
) -> None:
    client = TestClient(theirs)
    answer = client.simulate_get("/health")
    assert (answer.text, answer.headers.get("X-Request-Id")) == ("theirs", None)
    assert client.simulate_post("/health").text == "their handler: KeyError"
    assert client.simulate_put("/health").text == "their handler: HTTPMethodNotAllowed"
    for path in ("/nowhere", "/devices", "/v1/spec.yaml", "/v1/resources"):
        assert client.simulate_get(path).text == "their handler: HTTPRouteNotFound"


def test_their_request_id_stays(libvirt_host: LibvirtHost, tmp_path: Path) -> None:
    class RequestId:
        def process_request(self, _req: falcon.Request, resp: falcon.Response) -> None:
            resp.set_header("X-Request-Id", "theirs")

    with world_on(libvirt_host, tmp_path) as world:
        app = falcon.App(middleware=RequestId())
        mount(app, world)
        answer = Api(app).get("/devices", headers=bearer() | {"X-Request-Id": "the client's"})
    assert answer.headers["X-Request-Id"] == "theirs"


def test_a_browser_may_ask_where_they_let_it(libvirt_host: LibvirtHost, tmp_path: Path) -> None:
    with world_on(libvirt_host, tmp_path) as world:
        app = falcon.App(cors_enable=True)
        mount(app, world)
        headers = {"Origin": "https://ui.example", "Access-Control-Request-Method": "POST"}
        answer = TestClient(app).simulate_options("/devices", headers=headers)
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST"
