from __future__ import annotations

import json
from collections.abc import Iterator

import falcon
import pytest
from falcon.testing import create_req

from hypeman_libvirt.devices import errors
from hypeman_libvirt.devices.errors import DeviceError, ErrorDetail
from hypeman_libvirt.rest.errors import (
    MethodNotAllowedError,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
    answer,
    status_of,
)
from tests.api.document import document, schema_errors


def kinds(of: type[DeviceError] = DeviceError) -> Iterator[type[DeviceError]]:
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


def example(kind: type[DeviceError]) -> DeviceError:
    if kind is MethodNotAllowedError:
        return MethodNotAllowedError("PUT", ["GET"])
    return kind("what is wrong", hint="what to do")


def answered(error: Exception) -> falcon.Response:
    resp = falcon.Response()
    answer(create_req(), resp, error)
    return resp


@pytest.mark.parametrize("kind", sorted(set(kinds()), key=str))
def test_every_error_has_a_status_and_fits_the_document(kind: type[DeviceError]) -> None:
    error = example(kind)
    resp = answered(error)
    assert falcon.http_status_to_code(resp.status) == status_of(error)
    body = resp.render_body()
    assert body is not None
    assert json.loads(body) == {"code": error.code, "message": error.message}
    assert not schema_errors("/components/schemas/Error", json.loads(body))
    assert error.code in str(document())


@pytest.mark.parametrize(
    ("kind", "permanent"),
    [
        (errors.BadRequestError, True),
        (errors.NotFoundError, True),
        (errors.ConflictError, True),
        (errors.InUseError, True),
        (PayloadTooLargeError, True),
        (UnsupportedMediaTypeError, True),
        (errors.NotSupportedError, True),
        (errors.BusyError, False),
        (errors.LibvirtFailedError, False),
        (errors.LibvirtUnavailableError, False),
        (errors.OperationTimeoutError, False),
        (errors.GuestDidNotReleaseError, False),
    ],
)
def test_clients_are_told_what_is_permanent(kind: type[DeviceError], permanent: bool) -> None:
    should_retry = answered(kind("no")).get_header("x-should-retry")
    assert should_retry == ("false" if permanent else None)


def test_reasons_come_along() -> None:
    details = [ErrorDetail("in_the_way", "0000:41:00.1")]
    resp = answered(errors.IommuGroupConflictError("no", details=details))
    assert b'"details":[{"code":"in_the_way","message":"0000:41:00.1"}]' in (resp.data or b"")


def test_what_was_half_answered_is_gone() -> None:
    resp = falcon.Response()
    resp.text = "half"
    resp.stream = iter([b"half"])
    answer(create_req(), resp, errors.NotFoundError("no"))
    assert resp.stream is None
    assert resp.render_body() == b'{"code":"not_found","message":"no"}'


def test_what_falcon_refuses_has_the_same_body() -> None:
    resp = answered(falcon.HTTPBadRequest(description="Invalid HTTP method"))
    assert resp.status == falcon.HTTP_400
    assert resp.data == b'{"code":"bad_request","message":"Invalid HTTP method"}'
