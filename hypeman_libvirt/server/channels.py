"""What is ours of a waitress server: its connections, requests that are none, and its threads."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, Final
from uuid import uuid4

import structlog
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask, ThreadedTaskDispatcher

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


class Dispatcher(ThreadedTaskDispatcher):
    """Keeps requests that may wait out of the way of those that do not.

    A change waits for libvirt and a follower for events. They have threads of their own, as many
    as are allowed at once, so that the few threads of all others are there for looking.
    """

    def __init__(self, threads: int, waiting: int) -> None:
        """Start threads for those that do not wait, and allow so many that may."""
        super().__init__()
        self._most = waiting
        self._waiting = ThreadedTaskDispatcher()
        self._choosing = threading.Lock()
        self.set_thread_count(threads)

    def add_task(self, task: Any) -> None:  # noqa: ANN401 - a channel
        """Answer the first request of a channel."""
        if _may_wait(task.requests[0]):
            with self._choosing:
                if self._has_free_thread():
                    self._waiting.add_task(task)
                    return
        super().add_task(task)

    def shutdown(self, cancel_pending: bool = True, timeout: int = 5) -> bool:
        """End the threads that have nothing to do, and wait for the others."""
        self._waiting.shutdown(cancel_pending, timeout)
        return bool(super().shutdown(cancel_pending, timeout))

    def _has_free_thread(self) -> bool:
        """Start one more if all are busy and more are allowed; those that are there stay."""
        pool = self._waiting
        with pool.lock:
            running = len(pool.threads)
            if pool.active_count + len(pool.queue) < running:
                return True
        if running < self._most:
            pool.set_thread_count(running + 1)
        return running < self._most


def _may_wait(request: Any) -> bool:  # noqa: ANN401 - the stubs lack its path
    if request.error:
        return False
    return request.command not in {"GET", "HEAD"} or request.path.endswith("/events")
