"""What is ours of a waitress server: its connections, and requests that are none."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Collection
from io import BytesIO
from typing import Any, Final

from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.receiver import ChunkedReceiver
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask
from waitress.utilities import BadRequest

from hypeman_libvirt.server.answers import RefusedRequestError, describe_refusal

_TRANSFER_ENCODING: Final = re.compile(rb"^transfer-encoding[ \t]*:", re.IGNORECASE | re.MULTILINE)
_CHUNK_LINE: Final = 4096
"""Bytes of a line that announces a chunk, or of all that follows the last one."""
_LARGE: Final = 16 * 1024
"""Bytes of an answer that is sent from where it lies; a smaller one is copied."""
_UNACKNOWLEDGED: Final = 60_000
"""Milliseconds after which the kernel gives up a peer that takes nothing of what was sent."""


class JsonErrorTask(ErrorTask):
    """What is no HTTP is answered with the Error body, as everything else."""

    def execute(self) -> None:
        """Answer, and close the connection."""
        request: Any = self.request  # the stubs lack its error
        refused = request.error
        refusal = RefusedRequestError(refused.code, f"{refused.reason}: {refused.body}")
        request_id, body = describe_refusal(refusal)
        self.status = f"{refused.code} {refused.reason}"
        self.response_headers = [
            ("Content-Type", "application/json"),
            ("X-Request-Id", request_id),
        ]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


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
    """Refuses what proxies and servers read in two ways, and what would take for ever to read.

    Source: RFC 9112, sections 6.1 and 6.3.
    """

    def parse_header(self, header_plus: bytes) -> None:
        """Read the request line and headers."""
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # a length of thousands of digits, a URI with half an address
            raise ParsingError("the request line or a header is malformed") from error
        if _TRANSFER_ENCODING.search(header_plus):
            if self.version != "1.1" or not self.chunked:
                raise ParsingError("Transfer-Encoding without chunks, or not in HTTP/1.1")
            if "CONTENT_LENGTH" in self.headers:
                raise ParsingError("both Content-Length and Transfer-Encoding")

    def received(self, data: bytes) -> int:
        """Take bytes; return how many belong to this request."""
        consumed: int = super().received(data)
        body = self.body_rcv
        if isinstance(body, ChunkedReceiver) and not self.completed:
            unfinished: Any = body  # the stubs lack its parts
            if max(len(unfinished.control_line), len(unfinished.trailer)) > _CHUNK_LINE:
                self.error = BadRequest("a chunk's line is too long")
                self.completed = True
        return consumed


class Dispatcher(ThreadedTaskDispatcher):
    """Threads for requests; those that never wait have one of their own.

    So ``/health`` is answered however many requests hang, or queue up to be refused.
    """

    def __init__(self, threads: int, never_wait: Collection[str]) -> None:
        """Start the threads.

        Args:
            threads: For whatever may wait.
            never_wait: Paths whose requests never wait.
        """
        super().__init__()
        self.set_thread_count(threads)
        self._never_wait = frozenset(never_wait)
        self._quick = ThreadedTaskDispatcher()
        self._quick.set_thread_count(1)

    def add_task(self, task: Any) -> None:  # noqa: ANN401 - a Channel; the stubs want a Task
        """Have the request of a connection answered."""
        request = task.requests[0]
        if request.error or request.path in self._never_wait:
            self._quick.add_task(task)
        else:
            super().add_task(task)

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        """End the threads; what still runs after so many seconds is left to itself."""
        self._quick.shutdown(cancel_pending, timeout)  # type: ignore[arg-type]  # seconds
        return super().shutdown(cancel_pending, timeout)  # type: ignore[arg-type]


class Channel(HTTPChannel):
    """One connection, which has one request answered at a time.

    The next request is read once the last answer has left: who sends requests without reading
    answers holds one answer in memory and no thread.

    Attributes:
        idle_since: When the last request was complete, on the monotonic clock.
        receiving_since: When the one that is not complete yet began.
    """

    requests: list[Any]  # the stubs lack these, or have them otherwise
    requests_lock: Any
    server: Any

    parser_class = Parser
    task_class = Task
    error_task_class = JsonErrorTask

    def __init__(self, server: Any, connection: socket.socket, *rest: Any, **options: Any) -> None:  # noqa: ANN401 - waitress's own
        """Begin idle."""
        super().__init__(server, connection, *rest, **options)
        self.idle_since = self.receiving_since = time.monotonic()
        self._unread = b""
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED)

    def received(self, data: bytes) -> bool:
        """Take bytes, and the first request in them if nothing is being answered."""
        self._unread += data
        self._read_request()
        return True

    def readable(self) -> bool:
        """Whether more is wanted; the loop asks at each turn, so the next request begins here."""
        if self._unread and not self.is_answering:
            self._read_request()
        return not self._unread and bool(super().readable())

    def _read_request(self) -> None:
        with self.requests_lock:
            while self._unread and not (self.requests or self._is_closing):
                if self.request is None:
                    self.request = self.parser_class(self.adj)
                    self.receiving_since = time.monotonic()
                self._unread = self._unread[self.request.received(self._unread) :]
                if self.request.completed:
                    self._take(self.request)
                elif self.request.expect_continue and not self.sent_continue:
                    self.send_continue()

    def _take(self, request: Any) -> None:  # noqa: ANN401 - waitress has no types
        self.request = None
        self.sent_continue = False
        if not request.empty:
            self.idle_since = time.monotonic()
            self.requests.append(request)
            self.server.add_task(self)

    @property
    def _is_closing(self) -> bool:
        return bool(self.will_close or self.close_when_flushed)

    def write_soon(self, data: Any) -> int:  # noqa: ANN401 - bytes, or a file of waitress's
        """Have bytes of an answer sent; many are not copied, for other answers may share them."""
        if isinstance(data, bytes) and len(data) > _LARGE:
            data = ReadOnlyFileBasedBuffer(BytesIO(data))
            data.prepare()
        return int(super().write_soon(data))

    @property
    def is_answering(self) -> bool:
        """Whether a request runs, or its answer is not sent yet."""
        return bool(self.requests or self.total_outbufs_len)

    def is_stuck(self, seconds: float) -> bool:
        """Whether a request has not come in whole, or nothing of an answer left, for so long."""
        if self.request is not None and time.monotonic() - self.receiving_since > seconds:
            return True
        return bool(self.total_outbufs_len) and time.time() - self.last_activity > seconds
