"""Inputs that nobody foresaw: each is refused in our words or understood, and soon."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import jwt
import pytest
from falcon.testing import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import (
    DeviceError,
    InvalidPciAddressError,
    LibvirtFailedError,
    UnauthorizedError,
)
from hypeman_libvirt.host.xml.domain import DomainXml, parse_metadata
from hypeman_libvirt.host.xml.node_device import parse_node_device
from hypeman_libvirt.rest.auth import BearerAuth
from tests.api.client import SECRET, bearer
from tests.api.whole_app import whole_app
from tests.trust.conftest import Figures
from tests.world import World

pytestmark = pytest.mark.trust

TRIES = settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
CAPTURES = sorted((Path(__file__).parents[1] / "data" / "captures").rglob("*.xml"))
BOMB = (
    '<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    + "]><device><name>&j;</name></device>"
)
HOSTILE = {
    "nothing": "",
    "no XML": "hello",
    "entity bomb": BOMB,
    "external entity": (
        '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><device><name>&x;</name></device>'
    ),
    "external DTD": '<!DOCTYPE d SYSTEM "http://127.0.0.1:1/x.dtd"><device/>',
    "deep": "<a>" * 100_000 + "</a>" * 100_000,
    "huge text": f"<device><name>{'x' * 20_000_000}</name></device>",
    "another encoding": '<?xml version="1.0" encoding="UTF-16"?><device/>',
    "NUL": "<device>\0</device>",
    "huge number": (
        "<device><name>n</name><capability type='pci'><domain>99999999999999999999</domain>"
        "<bus>1</bus><slot>0</slot><function>0</function></capability></device>"
    ),
}
READERS: list[Callable[[str], object]] = [
    parse_node_device,
    parse_metadata,
    lambda text: DomainXml(text).held,
    lambda text: DomainXml(text).numa_nodes,
]


@TRIES
@given(st.text() | st.from_regex(r"[0-9a-fA-F:.]{1,20}"))
def test_an_address_is_one_or_is_refused(text: str) -> None:
    try:
        address = PciAddress.parse(text)
    except InvalidPciAddressError:
        return
    assert PciAddress.parse(str(address)) == address
    assert address.bus <= 0xFF
    assert address.slot <= 0x1F


def told(read: Callable[[str], object], text: str) -> str:
    """Return what was read, or why it was not."""
    try:
        return repr(read(text))
    except LibvirtFailedError as error:
        return error.message


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_xml_is_refused_and_never_followed(
    read: Callable[[str], object], name: str
) -> None:
    answer = told(read, HOSTILE[name])
    assert "root:" not in answer
    assert len(answer) < 25_000_000


@TRIES
@given(st.data())
def test_captured_xml_that_is_damaged_is_read_or_refused(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(CAPTURES)).read_text()
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, min(len(text), begin + 200)))
    damaged = text[:begin] + data.draw(st.text(max_size=20)) + text[end:]
    for read in READERS:
        told(read, damaged)


def unsigned(header: object, claims: object) -> str:
    parts = (json.dumps(each).encode() for each in (header, claims))
    return ".".join(base64.urlsafe_b64encode(each).decode().rstrip("=") for each in parts) + "."


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
CLAIMS = st.dictionaries(
    st.sampled_from(["sub", "exp", "nbf", "iat", "aud", "permissions", "repos", "iss"]), ANY_JSON
)


@TRIES
@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")))
def test_what_is_no_token_opens_nothing(text: str) -> None:
    for authorization in (text, f"Bearer {text}"):
        with pytest.raises(UnauthorizedError):
            BearerAuth(SECRET).identify(authorization)


@TRIES
@given(st.sampled_from(["none", "None", "HS1", "RS256", "ES256", ""]), CLAIMS)
def test_a_token_of_another_algorithm_opens_nothing(algorithm: str, claims: object) -> None:
    with pytest.raises(UnauthorizedError):
        BearerAuth(SECRET).identify(f"Bearer {unsigned({'alg': algorithm}, claims)}")


@TRIES
@given(CLAIMS)
def test_odd_claims_of_a_token_that_is_ours_grant_nothing_beyond_them(
    claims: dict[str, object],
) -> None:
    try:
        token = jwt.api_jws.encode(json.dumps(claims).encode(), SECRET, algorithm="HS256")
        identity = BearerAuth(SECRET).identify(f"Bearer {token}")
    except UnauthorizedError:
        return
    granted = claims.get("permissions", ["*"])
    assert all(isinstance(granted, list) and each in granted for each in identity.permissions)
    assert identity.subject is None or identity.subject == claims["sub"]


@TRIES
@given(query=st.text(max_size=60) | st.from_regex(r"(tags\[[^&]{0,9}\]=[^&]{0,9}&?){1,4}"))
def test_any_query_is_understood_or_refused(world: World, query: str) -> None:
    answer = TestClient(whole_app(world)).simulate_get(
        "/devices", query_string=quote(query, safe="[]=&%"), headers=bearer()
    )
    assert answer.status_code in {200, 400}


@TRIES
@given(reference=st.text(min_size=1, max_size=60))
def test_any_reference_is_unknown_or_refused(world: World, reference: str) -> None:
    path = f"/devices/{quote(reference, safe='')}"
    answer = TestClient(whole_app(world)).simulate_get(path, headers=bearer())
    assert answer.status_code in {200, 400, 404}


@TRIES
@given(body=ANY_JSON | st.binary(max_size=60))
def test_any_body_is_refused_or_registers(world: World, body: object) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {**bearer(), "Content-Type": "application/json"}
    answer = TestClient(whole_app(world)).simulate_post("/devices", body=raw, headers=headers)
    assert answer.status_code in {400, 404, 409, 415, 422}
    assert answer.json["code"]


def test_what_was_tried(figures: Figures) -> None:
    tried = TRIES.max_examples * 8 + len(HOSTILE) * len(READERS)
    figures("fuzz: inputs tried at least", tried)
    assert issubclass(LibvirtFailedError, DeviceError)
