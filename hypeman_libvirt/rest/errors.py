"""Errors on the wire: the status of each code, and the Error body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import falcon
import structlog

from hypeman_libvirt.devices.errors import (
    BadRequestError,
    DeviceError,
    NotFoundError,
    NoVirtualFunctionsError,
    UnauthorizedError,
)
from hypeman_libvirt.rest.responses import answer_with
from hypeman_libvirt.rest.schemas import ErrorOut

_STATUS: Final = {
    "bad_request": 400,
    "invalid_name": 400,
    "invalid_pci_address": 400,
    "invalid_tags": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "device_not_found": 404,
    "instance_not_found": 404,
    "not_found": 404,
    "profile_not_found": 404,
    "method_not_allowed": 405,
    "ambiguous_name": 409,
    "busy": 409,
    "claimed": 409,
    "conflict": 409,
    "critical_device": 409,
    "driver_not_bound": 409,
    "duplicate_host": 409,
    "identity_changed": 409,
    "in_use": 409,
    "iommu_group_conflict": 409,
    "iommu_unavailable": 409,
    "link_down": 409,
    "no_capacity": 409,
    "no_free_slot": 409,
    "not_assignable": 409,
    "not_attached": 409,
    "quarantined": 409,
    "report_gap": 409,
    "sriov_active": 409,
    "vfio_unavailable": 409,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "internal_error": 500,
    "not_supported": 501,
    "helper_failed": 502,
    "libvirt_error": 502,
    "host_unreachable": 503,
    "libvirt_denied": 503,
    "libvirt_unavailable": 503,
    "overloaded": 503,
    "registry_unavailable": 503,
    "too_many_listeners": 503,
    "guest_did_not_release": 504,
    "timeout": 504,
}
_CONFLICT: Final = 409
_NOT_IMPLEMENTED: Final = 501
_SERVER_ERRORS: Final = 500
_INTERNAL: Final = (
    "the service failed; its log has the reason under the X-Request-Id of this answer"
)

_log: Final = structlog.get_logger(__name__)


class MethodNotAllowedError(DeviceError):
    """The path has no such method."""

    code = "method_not_allowed"

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        """Store the methods that the path has, for the ``Allow`` header."""
        self.allow = ", ".join(allowed)
        super().__init__(f"{method} is not possible here", hint=f"use {self.allow}")


class PayloadTooLargeError(DeviceError):
    """The body is longer than the service reads."""

    code = "payload_too_large"


class UnsupportedMediaTypeError(DeviceError):
    """The body is not JSON by its content type."""

    code = "unsupported_media_type"


def status_of(error: DeviceError) -> int:
    """Return the HTTP status of an error's code, or of a device that is of the wrong kind."""
    return _CONFLICT if isinstance(error, NoVirtualFunctionsError) else _STATUS[error.code]


def answer(req: falcon.Request, resp: falcon.Response, error: Exception) -> None:
    """Make the answer say what went wrong; an unexpected error goes to the log only."""
    if isinstance(error, DeviceError):
        req.env["hypeman.error"] = error.code  # for a log around the app
        _answer(resp, error)
    elif isinstance(error, falcon.HTTPError):
        _answer_falcon(resp, error)
    else:
        _log.error("request failed", method=req.method, route=req.uri_template, exc_info=error)
        _write(resp, 500, ErrorOut(code="internal_error", message=_INTERNAL))


def _answer(resp: falcon.Response, error: DeviceError) -> None:
    status = status_of(error)
    _write(resp, status, ErrorOut.of(error))
    if error.retry_after is not None:
        resp.set_header("Retry-After", str(error.retry_after))
    if _is_permanent(error, status):
        resp.set_header("x-should-retry", "false")
    if isinstance(error, UnauthorizedError):
        resp.set_header("WWW-Authenticate", "Bearer")
    if isinstance(error, MethodNotAllowedError):
        resp.set_header("Allow", error.allow)


def _is_permanent(error: DeviceError, status: int) -> bool:
    """Whether hypeman's SDKs, which retry 409 and 5xx, need not retry this."""
    return status == _NOT_IMPLEMENTED or (status < _SERVER_ERRORS and error.retry_after is None)


def _answer_falcon(resp: falcon.Response, error: falcon.HTTPError) -> None:
    """Put what Falcon itself refuses, an unknown path or method, into the Error body."""
    if isinstance(error, falcon.HTTPNotFound):
        _answer(resp, NotFoundError("no such path", hint="GET /spec.yaml lists the operations"))
    else:
        _answer(resp, BadRequestError(error.description or error.title or "malformed request"))


def _write(resp: falcon.Response, status: int, body: ErrorOut) -> None:
    resp.status = falcon.code_to_http_status(status)
    resp.text = resp.media = resp.stream = None  # what was half answered
    answer_with(resp, body)
