"""api/ERRORS.md names every code that a client may meet, and none that it may not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hypeman_libvirt.devices.errors import DeviceError, NoVirtualFunctionsError
from hypeman_libvirt.rest import errors
from tests.api.document import ROOT, document

ROW = re.compile(r"\| `(\w+)` \| (\d{3}) \| (.+) \| (.+) \|")


def read_table() -> Mapping[str, int]:
    rows = ROW.findall((ROOT / "api" / "ERRORS.md").read_text())
    assert all(cause.strip() and cure.strip() for _, _, cause, cure in rows)
    table = {code: int(status) for code, status, _, _ in rows}
    assert len(table) == len(rows), "a code stands there twice"
    return table


def every_error(kind: type[DeviceError] = DeviceError) -> Iterator[type[DeviceError]]:
    yield kind
    for narrower in kind.__subclasses__():
        if narrower.__module__.startswith("hypeman_libvirt."):
            yield from every_error(narrower)


def codes_in(part: object, *, of_a_code: bool = False) -> Iterator[str]:
    """Yield whatever the OpenAPI document allows as a ``code``."""
    if isinstance(part, Mapping):
        for name, value in part.items():
            if of_a_code and name in {"const", "enum"}:
                yield from [value] if isinstance(value, str) else value
            yield from codes_in(value, of_a_code=name == "code")
    elif isinstance(part, list):
        for each in part:
            yield from codes_in(each)


def test_every_code_stands_in_the_table_with_its_status() -> None:
    known = {kind.code: errors.status_of(kind("")) for kind in every_error() if takes_text(kind)}
    known["method_not_allowed"] = errors.status_of(errors.MethodNotAllowedError("PUT", ["GET"]))
    assert read_table() == known


def takes_text(kind: type[DeviceError]) -> bool:
    return kind not in {errors.MethodNotAllowedError, NoVirtualFunctionsError}


def test_a_device_that_cannot_do_it_is_no_server_that_cannot() -> None:
    assert errors.status_of(NoVirtualFunctionsError("no SR-IOV")) == 409
    assert NoVirtualFunctionsError.code == "not_supported"


def test_every_code_of_the_document_stands_in_the_table() -> None:
    spec: Any = document()
    named = set(codes_in(spec))
    assert "iommu_group_conflict" in named
    assert named <= read_table().keys()
