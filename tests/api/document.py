"""The OpenAPI document, as what every answer is held against."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from referencing import Registry
from referencing.jsonschema import DRAFT202012

ROOT = Path(__file__).parent.parent.parent
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


@dataclass(frozen=True)
class Operation:
    """One method of one path of the document."""

    method: str
    path: str
    definition: Mapping[str, Any]

    @property
    def pattern(self) -> str:
        return re.sub(
            r"\{[^}]+\}", "[^/]*", re.escape(self.path).replace(r"\{", "{").replace(r"\}", "}")
        )

    @property
    def pointer(self) -> str:
        return f"/paths/{_escape(self.path)}/{self.method}"


@cache
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "api" / "openapi.yaml").read_text())
    return loaded


def operations() -> Iterator[Operation]:
    for path, item in document()["paths"].items():
        for method in METHODS & item.keys():
            yield Operation(method, path, item[method])


def find_operation(method: str, path: str) -> Operation | None:
    """Find what a request asks for; a path without parameters goes before one with."""
    fitting = [
        each
        for each in operations()
        if each.method == method.lower() and re.fullmatch(each.pattern, path)
    ]
    return min(fitting, key=lambda each: each.path.count("{"), default=None)


def schema_errors(pointer: str, instance: object) -> list[str]:
    """Say what of the instance does not fit the schema at a place of the document."""
    validator = jsonschema.Draft202012Validator(
        {"$ref": f"urn:api#{pointer}"},
        registry=_registry(),
        format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
    )
    return [error.message for error in validator.iter_errors(instance)]


def resolve(part: Any) -> Any:  # noqa: ANN401  # any part of a document
    """Follow a reference inside the document."""
    while isinstance(part, dict) and "$ref" in part:
        target: Any = document()
        for step in part["$ref"].removeprefix("#/").split("/"):
            target = target[step.replace("~1", "/").replace("~0", "~")]
        part = target
    return part


def answer_errors(
    operation: Operation | None, status: int, headers: Mapping[str, str], body: bytes
) -> list[str]:
    """Say what of an answer the document does not promise; headers in lower case."""
    if operation is None:
        return _undocumented(headers, body)
    described = operation.definition["responses"].get(str(status))
    if described is None:
        return [f"status {status} is not documented"]
    answer = resolve(described)
    where = f"{operation.pointer}/responses/{status}"
    if "$ref" in described:
        where = described["$ref"].removeprefix("#")
    return [*_header_errors(answer, headers), *_body_errors(answer, where, headers, body)]


def _undocumented(headers: Mapping[str, str], body: bytes) -> list[str]:
    missing = [] if "x-request-id" in headers else ["no X-Request-Id"]
    return missing + schema_errors("/components/schemas/Error", json.loads(body))


def _header_errors(answer: Mapping[str, Any], headers: Mapping[str, str]) -> Iterator[str]:
    for name, described in answer.get("headers", {}).items():
        header = resolve(described)
        text = headers.get(name.lower())
        if text is None:
            if header.get("required"):
                yield f"header {name} is missing"
            continue
        schema = header["schema"]
        value: object = int(text) if schema["type"] == "integer" else text
        yield from (
            f"header {name}: {error.message}"
            for error in jsonschema.Draft202012Validator(schema).iter_errors(value)
        )
    undocumented = {"x-should-retry", "retry-after", "www-authenticate"} & headers.keys()
    documented = {name.lower() for name in answer.get("headers", {})}
    yield from (f"header {name} is not documented" for name in undocumented - documented)


def _body_errors(
    answer: Mapping[str, Any], where: str, headers: Mapping[str, str], body: bytes
) -> list[str]:
    content = answer.get("content")
    if content is None:
        return [f"a body where none belongs: {body!r}"] if body else []
    media_type = headers.get("content-type", "").partition(";")[0]
    if media_type not in content:
        return [f"content type {media_type!r} is not documented"]
    if media_type != "application/json":
        return []
    return schema_errors(f"{where}/content/{_escape(media_type)}/schema", json.loads(body))


@cache
def _registry() -> Registry[Any]:
    empty: Registry[Any] = Registry()
    filled: Registry[Any] = empty.with_resource("urn:api", DRAFT202012.create_resource(document()))
    return filled


def _escape(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")
