"""What is ours of a waitress server: its connections, and requests that are none."""

from __future__ import annotations

import json
import time
from typing import Any, Final
from uuid import uuid4

import structlog
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask, WSGITask

_CODES: Final = {413: "payload_too_large", 500: "internal_error", 501: "not_supported"}

_log: Final = structlog.get_logger(__name__)


class JsonErrorTask(ErrorTask):
    """What is no HTTP is answered with the Error body, as everything else."""

    def execute(self) -> None:
        """Answer, and close the connection."""
        request: Any = self.request  # the stubs lack its error
        refused = request.error
        request_id = str(uuid4())
        message = f"{refused.reason}: {refused.body}"
        body = json.dumps({"code": _CODES.get(refused.code, "bad_request"), "message": message})
        _log.warning("request refused", status=refused.code, request_id=request_id)
        self.status = f"{refused.code} {refused.reason}"
        self.response_headers = [
            ("Content-Type", "application/json"),
            ("X-Request-Id", request_id),
        ]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body.encode())


class Task(WSGITask):
    """Keeps the connection after an answer that has no body, such as 204.

    waitress closes it after any answer without a Content-Length, which these must not have.

    Source: RFC 9110, section 8.6.
    """

    def set_close_on_finish(self) -> None:
        """Close after the answer, if the client wants that or cannot see the answer's end."""
        request: Any = self.request  # the stubs take it for one that was refused
        wants = request.headers.get("CONNECTION", "").lower() == "close"
        if self.has_body or self.version == "1.0" or wants:
            super().set_close_on_finish()


class Parser(HTTPRequestParser):
    """Refuses what proxies and servers read in two ways: a length and chunks at once.

    Source: RFC 9112, section 6.3.
    """

    def parse_header(self, header_plus: bytes) -> None:
        """Read the request line and headers."""
        super().parse_header(header_plus)
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("both Content-Length and Transfer-Encoding")


class Channel(HTTPChannel):
    """One connection, and since when it has asked for nothing that could be answered."""

    parser_class = Parser
    task_class = Task
    error_task_class = JsonErrorTask

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - waitress's own
        """Begin idle."""
        super().__init__(*arguments, **options)
        self.idle_since = time.monotonic()

    def received(self, data: bytes) -> bool:
        """Take bytes; a request is one once it is complete."""
        taken: bool = super().received(data)
        if self.requests:
            self.idle_since = time.monotonic()
        return taken

    @property
    def is_answering(self) -> bool:
        """Whether a request runs, or its answer is not sent yet."""
        return bool(self.requests or self.total_outbufs_len)

    @property
    def is_receiving(self) -> bool:
        """Whether a request has begun to come and is not complete."""
        return self.request is not None
