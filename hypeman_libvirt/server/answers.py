"""Answers on their way to a client, and those to what is no request that the app can have."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from uuid import uuid4

import structlog

Headers: TypeAlias = list[tuple[bytes, bytes]]

SERVER: Final = (b"server", b"hypeman-libvirt")
_CODES: Final = {413: "payload_too_large", 500: "internal_error", 501: "not_supported"}

_log: Final = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What an app answered.

    Attributes:
        status: Of HTTP.
        headers: In ASGI's form.
        body: All of it; None if it comes in chunks.
        chunks: As a WSGI app returned them.
        close: Is called once the answer has been sent, or given up.
    """

    status: int
    headers: Headers
    body: bytes | None
    chunks: Iterable[bytes] = ()
    close: Callable[[], object] = lambda: None

    def start(self) -> dict[str, Any]:
        """Return ASGI's message with status and headers."""
        return {"type": "http.response.start", "status": self.status, "headers": self.headers}


class RefusedRequestError(Exception):
    """A request that the app does not get.

    Attributes:
        status: Of HTTP.
        message: For the client.
    """

    def __init__(self, status: int, message: str) -> None:
        """Store what is answered."""
        super().__init__(message)
        self.status = status
        self.message = message


def refuse(refusal: RefusedRequestError) -> HttpAnswer:
    """Return the answer to a request that the app does not get; the connection ends with it."""
    request_id, body = describe_refusal(refusal)
    headers = [
        SERVER,
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]
    return HttpAnswer(refusal.status, headers, body)


def describe_refusal(refusal: RefusedRequestError) -> tuple[str, bytes]:
    """Log a refusal; return an id for it, and the Error body."""
    request_id = str(uuid4())
    code = _CODES.get(refusal.status, "bad_request")
    _log.warning("request refused", status=refusal.status, request_id=request_id)
    return request_id, json.dumps({"code": code, "message": refusal.message}).encode()
