"""The page: its files, signing in, and what its cookie is worth."""

from __future__ import annotations

import hashlib
import re
import time
from email.utils import parsedate_to_datetime
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from typing import Final

import pytest
from falcon.testing import Result, TestClient

from hypeman_libvirt.rest.auth import BearerAuth
from tests.api.client import SECRET, Api, bearer, token
from tests.world import World

WEB: Final = Path(__file__).parents[2] / "hypeman_libvirt" / "web"
FILES: Final = sorted(
    str(file.relative_to(WEB))
    for file in WEB.rglob("*")
    if file.suffix in {".css", ".html", ".js", ".svg", ".txt"}
)
PAGE: Final = {"X-Hypeman-Page": "1"}
PREACT: Final = "72284e8e9079c87817145df1110f74e8a2aa040b2fc384922e18dfcb46fc1fd7"
"""SHA-256 of preact/standalone.module.js in htm 3.1.1 on npm."""
MOST: Final = 120_000
"""Bytes of the whole page, without the licence of what is vendored."""


@pytest.fixture
def client(world: World) -> TestClient:
    from tests.api.whole_app import whole_app  # noqa: PLC0415  # after the level was chosen

    return TestClient(whole_app(world))


def cookie_in(answer: Result) -> Morsel[str]:
    """Return the one cookie that an answer sets."""
    (morsel,) = SimpleCookie(answer.headers["set-cookie"]).values()
    return morsel


# The files


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_page_is_served_as_it_is(client: TestClient, name: str) -> None:
    answer = client.simulate_get(f"/ui/{name}")
    assert answer.status_code == 200
    assert answer.content == (WEB / name).read_bytes()
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_itself_needs_no_token_and_allows_nothing_from_elsewhere(
    client: TestClient,
) -> None:
    answer = client.simulate_get("/ui/")
    assert answer.content == (WEB / "index.html").read_bytes()
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert set(re.findall(r"'?[\w-]+-src '(\w+)'", policy)) == {"none", "self"}


def test_without_the_slash_a_browser_is_sent_to_the_page(client: TestClient) -> None:
    answer = client.simulate_get("/ui")
    assert (answer.status_code, answer.headers["location"]) == (308, "ui/")


def test_a_file_that_the_browser_has_is_not_sent_again(client: TestClient) -> None:
    first = client.simulate_get("/ui/main.js")
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    again = client.simulate_get("/ui/main.js", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    other = client.simulate_get("/ui/main.js", headers={"If-None-Match": '"older"'})
    assert other.status_code == 200


@pytest.mark.parametrize("name", ["nothing.js", "../settings.py", "..%5csettings.py", "vendor/"])
def test_what_is_no_file_of_the_page_is_not_found(api: Api, name: str) -> None:
    assert api.get(f"/ui/{name}").status_code == 404


def test_nothing_of_the_page_is_inline_or_from_elsewhere() -> None:
    index = (WEB / "index.html").read_text()
    assert not re.findall(r"\son\w+=|\sstyle=|<style", index)
    assert not re.findall(r"<script(?![^>]*\ssrc=)", index)
    for name in FILES:
        if not name.startswith("vendor/"):
            text = (WEB / name).read_text().replace("http://www.w3.org/2000/svg", "")
            assert not re.findall(r"""["'(]https?://""", text), name


def test_preact_is_the_file_that_was_published() -> None:
    file = WEB / "vendor" / "preact-htm.js"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == PREACT
    notice = (WEB / "vendor" / "NOTICE.txt").read_text()
    assert "htm 3.1.1" in notice
    assert PREACT in notice


def test_the_page_is_small() -> None:
    whole = [WEB / name for name in FILES if not name.endswith(".txt")]
    assert sum(file.stat().st_size for file in whole) < MOST


def test_with_ui_off_there_is_no_page_and_no_cookie_counts(world: World) -> None:
    from tests.api.whole_app import whole_app  # noqa: PLC0415

    client = TestClient(whole_app(world, ui="off"))
    assert client.simulate_get("/ui/").status_code == 404
    assert client.simulate_get("/ui/session", headers=bearer()).status_code == 404
    cookie = {"Cookie": f"hypeman-libvirt={token()}", **PAGE}
    assert client.simulate_get("/devices", headers=cookie).status_code == 401


# Signing in


def test_who_is_signed_in_and_what_the_token_allows(api: Api) -> None:
    soon = int(time.time()) + 600
    headers = bearer(sub="ann", permissions=["device:read"], exp=soon)
    session = api.get("/ui/session", headers=headers)
    assert session.json["subject"] == "ann"
    assert session.json["permissions"] == ["device:read"]
    assert session.json["expires"].startswith(time.strftime("%Y-%m-%dT%H:%M", time.gmtime(soon)))
    assert session.headers["cache-control"] == "no-store"


def test_the_cookie_is_out_of_reach_for_scripts_and_other_sites(api: Api) -> None:
    signed = token()
    answer = api.post("/ui/session", headers={"Authorization": f"Bearer {signed}", **PAGE})
    cookie = cookie_in(answer)
    assert (cookie.key, cookie.value) == ("hypeman-libvirt", signed)
    assert cookie["httponly"]
    assert (cookie["samesite"], cookie["path"]) == ("Strict", "/")
    assert not cookie["secure"]
    assert not cookie["expires"]


def test_the_cookie_lasts_as_long_as_the_token(api: Api) -> None:
    until = int(time.time()) + 600
    cookie = cookie_in(api.post("/ui/session", headers=bearer(exp=until) | PAGE))
    assert parsedate_to_datetime(cookie["expires"]).timestamp() == until


def test_over_tls_the_cookie_goes_nowhere_else(api: Api) -> None:
    headers = bearer() | PAGE | {"X-Forwarded-Proto": "https"}
    cookie = cookie_in(api.post("/ui/session", headers=headers))
    assert cookie.key == "__Host-hypeman-libvirt"
    assert cookie["secure"]


def test_signing_out_removes_the_cookie(api: Api) -> None:
    cookie = cookie_in(api.delete("/ui/session"))
    assert cookie.value == ""
    assert parsedate_to_datetime(cookie["expires"]).year == 1970


def test_no_other_site_can_sign_somebody_in(api: Api) -> None:
    assert api.post("/ui/session").status_code == 400
    cookie = {"Cookie": f"hypeman-libvirt={token()}", **PAGE}
    assert api.post("/ui/session", headers=cookie).status_code == 400


# What the cookie is worth


def by_cookie(**more: str) -> dict[str, str]:
    return {"Cookie": f"hypeman-libvirt={token()}", **more}


def test_the_page_is_let_in_by_its_cookie(api: Api) -> None:
    assert api.get("/devices", headers=by_cookie(**PAGE)).status_code == 200
    same = by_cookie(**PAGE, **{"Sec-Fetch-Site": "same-origin"})
    assert api.get("/devices", headers=same).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        PAGE | {"Sec-Fetch-Site": "same-site"},
        PAGE | {"Sec-Fetch-Site": "cross-site"},
        PAGE | {"Sec-Fetch-Site": "none"},
        PAGE | {"X-Forwarded-Proto": "https"},
    ],
    ids=[
        "nothing",
        "no-header",
        "other-port",
        "other-site",
        "address-bar",
        "plain-cookie-over-tls",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_cookie_alone_lets_nobody_in(api: Api, method: str, headers: dict[str, str]) -> None:
    body = {"pci_address": "0000:a2:00.0"} if method == "POST" else None
    answer = api.send(method, "/devices", body, headers=by_cookie(**headers))
    assert answer.status_code == 401


def test_a_token_in_the_header_goes_before_the_cookie(api: Api) -> None:
    headers = by_cookie(**PAGE) | {"Authorization": "Bearer wrong"}
    assert api.get("/devices", headers=headers).status_code == 401


def test_two_cookies_of_the_name_are_none(api: Api) -> None:
    cookie = f"hypeman-libvirt={token()}; hypeman-libvirt={token(sub='other')}"
    assert api.get("/devices", headers={"Cookie": cookie, **PAGE}).status_code == 401


def test_the_cookie_allows_what_its_token_allows(api: Api) -> None:
    limited = token(permissions=["device:read"])
    headers = {"Cookie": f"hypeman-libvirt={limited}", **PAGE}
    assert api.post("/devices", {"pci_address": "0000:a2:00.0"}, headers=headers).status_code == 403


def test_no_answer_allows_another_origin(client: TestClient) -> None:
    headers = by_cookie(Origin="https://evil.example", **PAGE)
    for method, path in [("OPTIONS", "/devices"), ("GET", "/devices"), ("GET", "/ui/")]:
        answer = client.simulate_request(method, path, headers=headers)
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_an_app_of_another_owner_knows_no_cookie(world: World) -> None:
    import falcon  # noqa: PLC0415

    from hypeman_libvirt.bootstrap import init_app  # noqa: PLC0415  # after the level was chosen

    app = falcon.App()
    init_app(app, world.service, auth=BearerAuth(SECRET), settings=world.settings)
    answer = TestClient(app).simulate_get("/devices", headers=by_cookie(**PAGE))
    assert answer.status_code == 401
