"""What every answer has in common."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import hypeman
import pytest
import structlog
from structlog.testing import LogCapture

from hypeman_libvirt.rest.auth import Identity, NoAuth
from tests.api.client import Api, bearer, code_of, token
from tests.api.whole_app import whole_app
from tests.fake_host import FakeHost
from tests.world import World

L4 = "0000:a2:00.0"


@pytest.mark.parametrize("path", ["/", "/device", "/devices/a/b", "/devices/a/bind/c", "/instance"])
def test_an_unknown_path_is_not_found(api: Api, path: str) -> None:
    assert code_of(api.get(path, headers={})) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/images"), ("GET", "/images/nginx"), ("POST", "/instances"), ("GET", "/volumes/v")],
)
def test_what_hypeman_has_and_this_service_has_not_says_what_to_do_instead(
    api: Api, method: str, path: str
) -> None:
    answer = api.send(method, path)
    assert code_of(answer) == (404, "not_found")
    assert answer.json["message"] == (
        "this service is hypeman's device API alone; instances here are libvirt's domains; "
        "hypeman-libvirt devices attach NAME DOMAIN gives a registered device to one of them"
    )


def test_every_path_of_hypemans_client_is_served_or_says_what_to_do_instead(api: Api) -> None:
    package = Path(hypeman.__file__).parent / "resources"
    sources = [file.read_text() for file in package.rglob("*.py")]
    paths = {path for each in sources for path in re.findall(r'f?"(/[a-z][^"\s]*)"', each)}
    assert {"/instances", "/devices/available"} <= paths
    for path in paths:
        answer = api.get(re.sub(r"\{[^}]*\}", "x", path))
        assert answer.status_code != 404 or "device API alone" in answer.text or is_ours(path)


def is_ours(path: str) -> bool:
    return path.startswith(("/devices/", "/resources/"))


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/devices", "GET, POST"),
        ("HEAD", "/devices", "GET, POST"),
        ("POST", "/devices/available", "GET"),
        ("PUT", "/devices/l4-gpu", "DELETE, GET, PATCH"),
        ("GET", "/devices/l4-gpu/bind", "POST"),
        ("POST", "/health", "GET"),
        ("TRACE", "/iommu-groups/25", "GET"),
    ],
)
def test_an_unknown_method_says_which_are_known(
    api: Api, method: str, path: str, allowed: str
) -> None:
    answer = api.send(method, path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)
    assert answer.headers["X-Request-Id"]
    if method != "HEAD":
        assert code_of(answer) == (405, "method_not_allowed")


def test_options_tell_the_methods_without_a_token(api: Api) -> None:
    answer = api.send("OPTIONS", "/devices", headers={})
    assert (answer.status_code, answer.headers["Allow"]) == (204, "GET, POST")


@pytest.mark.parametrize("sent", ["abc-123", "0b4e3c92-7e0f-4f0c-9f5e-6a1e5b1c2d3f", "a.b_C"])
@pytest.mark.parametrize("path", ["/health", "/devices", "/devices/nobody", "/nowhere"])
def test_a_sane_request_id_is_taken_over(api: Api, path: str, sent: str) -> None:
    answer = api.get(path, headers=bearer() | {"X-Request-Id": sent})
    assert answer.headers["X-Request-Id"] == sent


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "<script>", "a;b", "é"])
def test_an_odd_request_id_is_replaced(api: Api, sent: str) -> None:
    answer = api.get("/health", headers={"X-Request-Id": sent})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])


def test_each_request_has_an_id_of_its_own(api: Api) -> None:
    ids = {api.get("/health").headers["X-Request-Id"] for _ in range(3)}
    assert len(ids) == 3


class Broken:
    """An auth that fails in a way that nobody foresaw."""

    def identify(self, authorization: str | None) -> Identity:
        raise RuntimeError(f"a secret of the inside, {authorization is not None}")


@pytest.fixture
def log() -> Iterator[LogCapture]:
    capture = LogCapture()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, capture])
    yield capture
    structlog.reset_defaults()


def test_what_nobody_foresaw_is_told_to_the_log_alone(world: World, log: LogCapture) -> None:
    api = Api(whole_app(world, Broken()))
    answer = api.get("/devices", headers=bearer() | {"X-Request-Id": "abc"})
    assert code_of(answer) == (500, "internal_error")
    assert "secret" not in answer.text
    entry, request = log.entries
    assert (request["event"], request["status"]) == ("request", 500)
    assert entry["request_id"] == "abc"
    assert str(entry["exc_info"]) == "a secret of the inside, True"
    assert token() not in str(log.entries)


def test_a_log_of_libvirt_keeps_what_the_client_is_not_told(
    world: World, fake_host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fake_host.refuse("listAllDevices", code=1)
    answer = Api(whole_app(world, NoAuth())).get("/devices/available")
    assert code_of(answer) == (502, "libvirt_error")
    assert "listAllDevices" in caplog.text
    assert "listAllDevices" not in answer.text


def test_the_document_is_served_without_a_token(api: Api) -> None:
    in_yaml = api.get("/spec.yaml", headers={})
    assert in_yaml.headers["Content-Type"] == "application/yaml"
    in_json = api.get("/spec.json", headers={}).json
    assert in_json["openapi"].startswith("3.1")
    assert set(in_json["paths"]) >= {"/devices", "/devices/{id}"}
    assert in_yaml.text.startswith("openapi: 3.1")
