"""The document and the routes are the same, and the document is as complete as it claims."""

from __future__ import annotations

import json
import re

import pytest

from hypeman_libvirt import __version__
from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.resources.reader import ResourceReader
from hypeman_libvirt.rest.about import document_path
from hypeman_libvirt.rest.auth import IDENTIFIED
from hypeman_libvirt.rest.routes import (
    about_routes,
    device_routes,
    host_routes,
    metrics_routes,
    session_routes,
)
from tests.api.document import (
    ROOT,
    Operation,
    answer_errors,
    document,
    find_operation,
    operations,
    resolve,
    schema_errors,
)
from tests.world import World

OPERATIONS = sorted(operations(), key=lambda each: (each.path, each.method))


def name_of(operation: object) -> str | None:
    return operation.definition["operationId"] if isinstance(operation, Operation) else None


def nameless(path: str) -> str:
    return re.sub(r"\{[^}]+\}", "{}", path)


def test_every_route_is_in_the_document_and_the_other_way_round(world: World) -> None:
    routed = {
        (method, nameless(route.path), permission)
        for route in (
            *device_routes(world.service),
            *host_routes(
                ResourceReader(world.host.resources, world.host.view, world.service.inventory)
            ),
            *about_routes(world.service),
            *metrics_routes(bytes),
            *session_routes(None),
        )
        for method, permission in route.permissions.items()
    }
    documented = {
        (each.method.upper(), nameless(each.path), permission)
        for each in OPERATIONS
        for permission in (
            (each.definition["security"][0]["bearerAuth"] or [IDENTIFIED])
            if each.definition["security"]
            else [None]
        )
    }
    assert routed == documented


def test_our_own_paths_leave_room_for_a_control_plane(world: World) -> None:
    paths = [route.path for route in device_routes(world.service)]
    assert all(re.match("/(devices|iommu-groups)(/|$)", path) for path in paths)


def test_the_version_is_the_packages() -> None:
    assert document()["info"]["version"] == __version__


def test_the_service_finds_the_document_in_a_checkout() -> None:
    assert document_path() == ROOT / "api" / "openapi.yaml"


def test_the_document_is_the_same_in_json() -> None:
    assert json.loads(json.dumps(document())) == document()


@pytest.mark.parametrize("operation", OPERATIONS, ids=name_of)
def test_every_answer_has_an_example_that_fits(operation: Operation) -> None:
    for status, described in operation.definition["responses"].items():
        answer = resolve(described)
        assert "X-Request-Id" in answer["headers"]
        pointer = f"{operation.pointer}/responses/{status}"
        if "$ref" in described:
            pointer = described["$ref"].removeprefix("#")
        for media_type, content in answer.get("content", {}).items():
            if operation.path.startswith("/spec") and status == "200":
                continue
            where = f"{pointer}/content/{media_type.replace('/', '~1')}/schema"
            assert schema_errors(where, content["example"]) == []


@pytest.mark.parametrize("operation", OPERATIONS, ids=name_of)
def test_every_operation_says_what_it_does(operation: Operation) -> None:
    assert operation.definition["summary"]
    assert operation.definition["description"]
    for parameter in map(resolve, operation.definition.get("parameters", [])):
        assert parameter["description"]
    asked = operation.definition["security"]
    expected = {"401"} if asked else set()
    expected |= {"403"} if asked and asked[0]["bearerAuth"] else set()
    assert {"401", "403"} & operation.definition["responses"].keys() == expected


def test_the_words_of_register_are_hypemans() -> None:
    device = document()["components"]["schemas"]["Device"]["properties"]
    assert {name: device[name]["description"] for name in device if name in HYPEMANS} == HYPEMANS
    assert list(device)[:10] == [*list(HYPEMANS)[:6], "type", *list(HYPEMANS)[6:]]
    body = document()["components"]["schemas"]["CreateDeviceRequest"]["properties"]
    assert body["pci_address"]["description"] == (
        'PCI address of the device (required, e.g., "0000:a2:00.0")'
    )
    assert body["name"]["description"] == (
        "Optional globally unique device name. If not provided, a name is auto-generated from the "
        'PCI address (e.g., "pci-0000-a2-00-0")'
    )


HYPEMANS = {
    "id": "Auto-generated unique identifier (CUID2 format)",
    "bound_to_vfio": (
        "Whether the device is currently bound to the vfio-pci driver, which is required for VM "
        "passthrough.\n\n- true: Device is bound to vfio-pci and ready for (or currently in use "
        "by) a VM. The device's native driver has been unloaded.\n- false: Device is using its "
        "native driver (e.g., nvidia) or no driver. Hypeman will automatically bind to vfio-pci "
        "when attaching to an instance.\n"
    ),
    "created_at": "Registration timestamp (RFC3339)",
    "device_id": "PCI device ID (hex)",
    "iommu_group": "IOMMU group number",
    "pci_address": "PCI address",
    "vendor_id": "PCI vendor ID (hex)",
    "attached_to": "Instance ID if attached",
    "name": "Device name (user-provided or auto-generated from PCI address)",
}


def codes_in(document_part: object) -> set[str]:
    if isinstance(document_part, list):
        return set().union(*map(codes_in, document_part))
    if not isinstance(document_part, dict):
        return set()
    code = document_part.get("code")
    found = set(code.get("enum", [code.get("const")])) if isinstance(code, dict) else set()
    return found.union(*map(codes_in, document_part.values()))


def test_every_code_of_the_document_is_ours() -> None:
    ours = {kind.code for kind in DeviceError.__subclasses__()} | {DeviceError.code}
    assert codes_in(document()) - {None} <= ours


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (418, {"x-request-id": "x", "content-type": "application/json"}, b"{}"),
        (200, {"content-type": "application/json"}, b"[]"),
        (200, {"x-request-id": "x", "content-type": "text/plain"}, b"[]"),
        (200, {"x-request-id": "x", "content-type": "application/json"}, b"{}"),
        (200, {"x-request-id": "x", "content-type": "application/json"}, b'[{"id": "x"}]'),
        (200, {"x-request-id": "x", "content-type": "application/json", "retry-after": "1"}, b"[]"),
        (400, {"x-request-id": "x", "content-type": "application/json"}, b'{"code": "conflict"}'),
        (503, {"x-request-id": "x", "content-type": "application/json"}, b'{"message": "x"}'),
    ],
)
def test_an_answer_that_does_not_fit_is_noticed(
    status: int, headers: dict[str, str], body: bytes
) -> None:
    assert answer_errors(find_operation("GET", "/devices"), status, headers, body)
