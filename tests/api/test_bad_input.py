"""What clients get wrong, and what they are told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api.client import Api, bearer, code_of
from tests.fake_host import FakeHost

L4 = "0000:a2:00.0"
JSON = {**bearer(), "Content-Type": "application/json"}


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "   ",
        "{",
        "not json",
        "[]",
        '["0000:a2:00.0"]',
        '"0000:a2:00.0"',
        "null",
        "7",
        "{}",
        '{"pci_address": 7}',
        '{"pci_address": null}',
        '{"pci_address": ["0000:a2:00.0"]}',
        '{"pci_address": "0000:a2:00.0", "name": 7}',
        '{"pci_address": "0000:a2:00.0", "tags": []}',
        '{"pci_address": "0000:a2:00.0", "tags": {"team": 7}}',
        '{"pci_address": "0000:a2:00.0", "bind": "everything"}',
        '{"pci_address": "0000:a2:00.0", "bind": true}',
        '{"pci_address": "0000:a2:00.0", "other": NaN}',
        '{"pci_address": "0000:a2:00.0", "other": Infinity}',
        '{"pci_address": "0000:a2:00.0", "name": "\\ud800"}',
        "[" * 100_000,
        '{"a":' * 100_000,
        "\ufeff{}",
    ],
)
def test_a_body_that_is_no_registration_is_a_bad_request(api: Api, raw: str) -> None:
    answer = api.send("POST", "/devices", headers=JSON, raw=raw.encode())
    assert code_of(answer) == (400, "bad_request")
    assert answer.headers["x-should-retry"] == "false"


def test_bytes_that_are_no_text_are_a_bad_request(api: Api) -> None:
    answer = api.send("POST", "/devices", headers=JSON, raw=b'{"pci_address": "\xff"}')
    assert code_of(answer) == (400, "bad_request")


def test_each_field_that_does_not_fit_is_named(api: Api) -> None:
    answer = api.post("/devices", {"pci_address": 7, "name": 8})
    assert [each["message"] for each in answer.json["details"]] == [
        "pci_address: input should be a valid string",
        "name: input should be a valid string",
    ]


def test_of_thousands_of_problems_twenty_are_named(api: Api) -> None:
    answer = api.post("/devices", {"pci_address": L4, "tags": {f"k{n}": n for n in range(5000)}})
    assert code_of(answer) == (400, "bad_request")
    assert len(answer.json["details"]) == 20


def test_unknown_fields_are_ignored(api: Api) -> None:
    answer = api.post("/devices", {"pci_address": L4, "colour": "green", "tags": None})
    assert answer.status_code == 201


def test_two_megabytes_are_too_much(api: Api) -> None:
    answer = api.post("/devices", {"pci_address": L4, "name": "x" * 2_000_000})
    assert code_of(answer) == (413, "payload_too_large")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", None]
)
def test_a_body_that_is_not_declared_as_json_is_refused(api: Api, content_type: str | None) -> None:
    headers = bearer() | ({"Content-Type": content_type} if content_type else {})
    answer = api.send("POST", "/devices", headers=headers, raw=b'{"pci_address": "0000:a2:00.0"}')
    assert code_of(answer) == (415, "unsupported_media_type")


def test_json_may_name_its_charset(api: Api) -> None:
    headers = bearer() | {"Content-Type": "Application/JSON; charset=utf-8"}
    answer = api.send("POST", "/devices", headers=headers, raw=b'{"pci_address": "0000:a2:00.0"}')
    assert answer.status_code == 201


@pytest.mark.parametrize(
    "name", ["", "x", "../x", "a/b", "available", "events", "preflight", "x" * 129, "größe", "a\n"]
)
def test_a_name_that_fits_no_path_is_refused(api: Api, name: str) -> None:
    answer = api.post("/devices", {"pci_address": L4, "name": name})
    assert code_of(answer) == (400, "invalid_name")


def test_a_name_of_null_is_no_name(api: Api) -> None:
    answer = api.post("/devices", {"pci_address": L4, "name": None})
    assert (answer.status_code, answer.json["name"]) == (201, "pci-0000-a2-00-0")


@pytest.mark.parametrize(
    "tags",
    [
        {"": "x"},
        {"k" * 129: "x"},
        {"team": "v" * 257},
        {"größe": "x"},
        {"team": "a,b"},
        {f"key{number}": "" for number in range(51)},
    ],
)
def test_tags_that_break_the_rules_are_refused(api: Api, tags: dict[str, str]) -> None:
    answer = api.post("/devices", {"pci_address": L4, "tags": tags})
    assert code_of(answer) == (400, "invalid_tags")


@pytest.mark.parametrize(
    "address",
    ["", "a2:00.0", "0000:a2:20.0", "0000:a2:00.8", "0000:a2:00.0\n", " 0000:a2:00.0", "0:a2:0.0"],
)
def test_what_is_no_pci_address_is_refused(api: Api, address: str) -> None:
    answer = api.post("/devices", {"pci_address": address})
    assert code_of(answer) == (400, "invalid_pci_address")


def test_an_address_without_domain_is_told_the_full_form(api: Api) -> None:
    assert "0000:a2:00.0" in api.post("/devices", {"pci_address": "a2:00.0"}).json["message"]


def test_an_address_in_upper_case_is_stored_in_lower_case(api: Api) -> None:
    answer = api.post("/devices", {"pci_address": "0000:A2:00.0"})
    assert (answer.status_code, answer.json["pci_address"]) == (201, L4)


@pytest.mark.parametrize(
    ("address", "status", "code"),
    [
        ("0000:a1:01.0", 409, "not_assignable"),
        ("0000:ff:00.0", 404, "device_not_found"),
        ("0000:00:1f.4", 409, "iommu_unavailable"),
    ],
)
def test_what_cannot_be_registered_says_why(api: Api, address: str, status: int, code: str) -> None:
    assert code_of(api.post("/devices", {"pci_address": address})) == (status, code)


def test_the_same_address_and_the_same_name_conflict(api: Api) -> None:
    api.post("/devices", {"pci_address": L4, "name": "l4-gpu"})
    for again in ({"pci_address": L4}, {"pci_address": "0000:41:00.0", "name": "l4-gpu"}):
        answer = api.post("/devices", again)
        assert code_of(answer) == (409, "conflict")
        assert answer.headers["x-should-retry"] == "false"


def test_of_sixteen_at_once_one_registers_the_device(api: Api) -> None:
    def register(number: int) -> int:
        body = {"pci_address": L4, "name": f"gpu-{number}"}
        return api.post("/devices", body).status_code

    with ThreadPoolExecutor(16) as clients:
        statuses = sorted(clients.map(register, range(16)))
    assert statuses == [201] + [409] * 15


@pytest.mark.parametrize("reference", ["a%2Fb", "..", "%2e%2e", "%00", "%ff", "a%0ab", "%2F"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_id_is_never_a_path(api: Api, method: str, reference: str) -> None:
    api.post("/devices", {"pci_address": L4, "name": "l4-gpu"})
    assert code_of(api.send(method, f"/devices/{reference}")) == (404, "not_found")
    assert len(api.get("/devices").json) == 1


def test_a_device_that_vanishes_while_it_is_listed_is_left_out(
    api: Api, fake_host: FakeHost
) -> None:
    fake_host.vanish("pci_0000_3b_00_0", still_listed=True)
    answer = api.get("/devices/available")
    assert "0000:3b:00.0" not in [each["pci_address"] for each in answer.json]
    assert L4 in [each["pci_address"] for each in answer.json]


@pytest.mark.parametrize(
    "query", ["tags=ml", "tags[]=ml", "tags[team=ml", "tags[a][b]=c", "tags[a]=1&tags[a]=2"]
)
def test_what_starts_like_a_tag_filter_and_is_none_is_refused(api: Api, query: str) -> None:
    assert code_of(api.get("/devices", query=query)) == (400, "invalid_tags")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("bind", {"scope": "all"}),
        ("bind", {"force": "yes"}),
        ("bind", {"force": 1}),
        ("unbind", {"scope": None}),
        ("attach", {}),
        ("attach", {"instance": ""}),
        ("attach", {"instance": 7}),
        ("attach", None),
    ],
)
def test_a_body_that_does_not_fit_moves_nothing(
    api: Api, fake_host: FakeHost, path: str, body: object
) -> None:
    api.post("/devices", {"pci_address": L4, "name": "l4-gpu"})
    assert code_of(api.post(f"/devices/l4-gpu/{path}", body)) == (400, "bad_request")
    assert fake_host.driver(L4) == "nvidia"


@pytest.mark.parametrize("scope", ["all", "", "Device", "device,group"])
def test_a_scope_that_is_none_is_refused(api: Api, scope: str) -> None:
    api.post("/devices", {"pci_address": L4, "name": "l4-gpu"})
    for method, path in (
        ("DELETE", f"/devices/l4-gpu?unbind={scope}"),
        ("GET", f"/devices/l4-gpu/hostdev.xml?scope={scope}"),
        ("GET", f"/devices/l4-gpu/preflight?scope={scope}"),
        ("GET", f"/devices/preflight?pci_address={L4}&scope={scope}"),
    ):
        assert code_of(api.send(method, path)) == (400, "bad_request")


def test_preflight_without_an_address_says_what_is_missing(api: Api) -> None:
    assert code_of(api.get("/devices/preflight")) == (400, "bad_request")


@pytest.mark.parametrize("number", ["x", "-1", "1_0", "999999", "9" * 5000, "٣"])
def test_what_is_no_iommu_group_is_not_found(api: Api, number: str) -> None:
    assert code_of(api.get(f"/iommu-groups/{number}")) == (404, "not_found")
