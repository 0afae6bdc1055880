"""Who may do what: every operation of the document with every kind of token."""

from __future__ import annotations

import time
from typing import Any, get_args

import pytest
from falcon.testing import TestClient

from hypeman_libvirt.rest.auth import Permission
from tests.api.client import bearer
from tests.api.document import Operation, operations
from tests.api.whole_app import whole_app
from tests.trust.conftest import Figures
from tests.world import World

pytestmark = pytest.mark.trust

PERMISSIONS = get_args(Permission)
NEVER_ENDS = "watchDevices"
STRANGERS: dict[str, dict[str, str]] = {
    "no token": {},
    "basic auth": {"Authorization": "Basic b3BzOm9wcw=="},
    "expired": bearer(exp=int(time.time()) - 1),
    "not yet valid": bearer(nbf=int(time.time()) + 3600),
    "of a registry": bearer(repos=["x"]),
    "not signed": {"Authorization": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJvcHMifQ."},
}


def needed(operation: Operation) -> str | None:
    """Return the permission that the document asks for; None for public operations."""
    security: list[dict[str, list[str]]] = operation.definition["security"]
    return security[0]["bearerAuth"][0] if security else None


def ask(app: Any, operation: Operation, headers: dict[str, str]) -> int:  # noqa: ANN401
    path = operation.path.replace("{number}", "1").replace("{reference}", "nobody")
    path = path.replace("{id}", "nobody")
    answer = TestClient(app).simulate_request(operation.method.upper(), path, headers=headers)
    return answer.status_code


@pytest.mark.parametrize(
    "operation", list(operations()), ids=lambda each: each.definition["operationId"]
)
def test_an_operation_is_open_to_its_permission_alone(
    world: World, operation: Operation, figures: Figures
) -> None:
    app, permission = whole_app(world), needed(operation)
    if permission is None:
        assert ask(app, operation, {}) not in {401, 403}
        return
    for stranger in STRANGERS.values():
        assert ask(app, operation, stranger) == 401
    others = [each for each in PERMISSIONS if each != permission]
    assert ask(app, operation, bearer(permissions=others)) == 403
    assert ask(app, operation, bearer(permissions=[])) == 403
    assert ask(app, operation, bearer(permissions="*")) == 403  # a list was promised
    if operation.definition["operationId"] != NEVER_ENDS:
        for enough in ([permission], ["*"], [*PERMISSIONS]):
            assert ask(app, operation, bearer(permissions=enough)) not in {401, 403}
    figures(f"permissions: {operation.definition['operationId']}", f"{permission} alone")
