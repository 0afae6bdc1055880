"""Who may do what: every operation of the document, with every token."""

from __future__ import annotations

import re

import pytest

from tests.api.client import Api, bearer, code_of, token
from tests.api.document import Operation, operations

PERMISSIONS = ["device:read", "device:write", "device:delete", "resource:read", "host:write"]
OPERATIONS = sorted(operations(), key=lambda each: (each.path, each.method))
PROTECTED = [each for each in OPERATIONS if each.definition["security"]]
PERMITTED = [each for each in PROTECTED if each.definition["security"][0]["bearerAuth"]]
PUBLIC = [each for each in OPERATIONS if not each.definition["security"]]


def name_of(value: object) -> str | None:
    return value.definition["operationId"] if isinstance(value, Operation) else None


def path_of(operation: Operation) -> str:
    """Fill the path in with what there is not."""
    return re.sub(
        r"\{(\w+)\}", lambda found: {"number": "999"}.get(found[1], "nobody"), operation.path
    )


def ask(api: Api, operation: Operation, headers: dict[str, str]) -> tuple[int, str]:
    """Return status and code; nothing is registered, so that whoever is let in finds nothing."""
    path = path_of(operation)
    if operation.definition["operationId"] == "watchDevices":
        with api.stream(path, headers) as opened:
            if opened.status_code == 200:
                return 200, ""
    answer = api.send(operation.method.upper(), path, headers=headers)
    is_error = answer.status_code >= 400
    return answer.status_code, answer.json["code"] if is_error else ""


@pytest.mark.parametrize("operation", PERMITTED, ids=name_of)
def test_an_operation_asks_for_its_permission(api: Api, operation: Operation) -> None:
    ((_, (needed,)),) = operation.definition["security"][0].items()
    for permission in PERMISSIONS:
        status, _ = ask(api, operation, bearer(permissions=[permission]))
        assert (status == 403) == (permission != needed)


@pytest.mark.parametrize("operation", PERMITTED, ids=name_of)
def test_a_missing_permission_is_named(api: Api, operation: Operation) -> None:
    ((_, (needed,)),) = operation.definition["security"][0].items()
    path = path_of(operation)
    answer = api.send(operation.method.upper(), path, headers=bearer(permissions=[]))
    assert code_of(answer) == (403, "forbidden")
    assert needed in answer.json["message"]


def test_what_the_host_can_do_is_told_to_any_valid_token(api: Api) -> None:
    assert api.get("/capabilities", headers=bearer(permissions=[])).status_code == 200


@pytest.mark.parametrize("claims", [{}, {"permissions": ["*"]}], ids=["none", "star"])
@pytest.mark.parametrize("operation", PROTECTED, ids=name_of)
def test_all_is_allowed_without_the_claim_and_with_the_star(
    api: Api, operation: Operation, claims: dict[str, object]
) -> None:
    assert ask(api, operation, bearer(**claims))[0] not in {401, 403}


@pytest.mark.parametrize("operation", PROTECTED, ids=name_of)
def test_without_a_token_nothing_is_told(api: Api, operation: Operation) -> None:
    for headers in ({}, {"Authorization": f"Basic {token()}"}, {"Authorization": "Bearer x"}):
        assert ask(api, operation, headers) == (401, "unauthorized")


@pytest.mark.parametrize("operation", PUBLIC, ids=name_of)
def test_what_the_service_says_about_itself_needs_no_token(api: Api, operation: Operation) -> None:
    assert ask(api, operation, {}) == (200, "")


def test_the_token_comes_before_the_body(api: Api) -> None:
    answer = api.send("POST", "/devices", headers={}, raw=b"not json")
    assert code_of(answer) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.headers["x-should-retry"] == "false"
