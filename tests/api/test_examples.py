"""The examples fit the document, and are what the service answers on the demo host."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from hypeman_libvirt.rest.auth import NoAuth
from tests.api.client import Api
from tests.api.document import ROOT, answer_errors, find_operation, operations, schema_errors
from tests.api.whole_app import whole_app
from tests.world import world_on

FILES = sorted((ROOT / "api" / "examples").glob("*.json"))
OF_A_FLEET = {
    each.definition["operationId"] for each in operations() if each.definition["tags"] == ["fleet"]
}
NOT_REPLAYED = {"watchDevices"} | OF_A_FLEET  # the first never ends; tests/fleet asks a hub
ID = "tz4a98xxat96iws9zmbrgj3a"


def load(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded


def test_every_operation_has_an_example() -> None:
    shown = [load(file)["operation"] for file in FILES]
    assert sorted(shown) == sorted(each.definition["operationId"] for each in operations())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_example_fits_the_document(file: Path) -> None:
    example = load(file)
    request, answer = example["request"], example["answer"]
    operation = find_operation(request["method"], request["path"].partition("?")[0])
    assert operation is not None
    assert operation.definition["operationId"] == example["operation"]
    if "body" in request:
        where = f"{operation.pointer}/requestBody/content/application~1json/schema"
        assert not schema_errors(where, request["body"])
    if "body" in answer or answer["status"] == 204:
        headers = {name.lower(): value for name, value in answer.get("headers", {}).items()}
        body = json.dumps(answer["body"]).encode() if "body" in answer else b""
        errors = answer_errors(operation, answer["status"], headers | {"x-request-id": "x"}, body)
        assert not errors


@pytest.mark.testdriver
def test_the_examples_are_a_session_on_the_demo_host(tmp_path: Path) -> None:
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415
    from hypeman_libvirt.host.test_driver import demo_uri  # noqa: PLC0415  # after the level was chosen

    host = open_host(demo_uri())
    with world_on(host, tmp_path) as world:
        api = Api(whole_app(world, NoAuth()))
        for example in map(load, FILES):
            if example["operation"] not in NOT_REPLAYED:
                replay(api, example)
    host.close()


def replay(api: Api, example: dict[str, Any]) -> None:
    """Send the request of an example and compare the answer, but for the device's id."""
    request, expected = example["request"], example["answer"]
    headers = request.get("headers", {})
    answer = api.send(request["method"], request["path"], request.get("body"), headers=headers)
    assert answer.status_code == expected["status"]
    if "body" not in expected:
        return
    if isinstance(expected["body"], str):
        assert answer.text == expected["body"]
    else:
        text = answer.text.replace("id0000000000000000000001", ID)
        if platform.machine() == "aarch64":
            text = text.replace("arm64", "amd64")
        assert json.loads(text) == expected["body"]
