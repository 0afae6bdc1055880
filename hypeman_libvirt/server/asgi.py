"""The WSGI app as an ASGI app: it gets whole requests, in threads that may wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from io import BytesIO
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes
from wsgiref.types import WSGIApplication, WSGIEnvironment

import structlog

from hypeman_libvirt.server.answers import SERVER, Headers, HttpAnswer, RefusedRequestError, refuse
from hypeman_libvirt.server.connections import Peer

Scope: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]

_SMALL: Final = 64 * 1024
"""Bytes of a body that any number of requests may have in memory."""
_LARGE_AT_ONCE: Final = 8
"""Requests with a larger body that are read at the same time; others are read after them."""
SLICE: Final = 64 * 1024
"""Bytes of an answer that are handed over at once: who does not read costs a few of these."""

_log: Final = structlog.get_logger(__name__)


class AsgiApp:
    """Reads requests, has the app answer each in a thread, and sends what it answered.

    Attributes:
        busy: How many requests of each peer the app is answering now, streams included.
    """

    def __init__(
        self, app: WSGIApplication, threads: Executor, *, most_bytes: int, patience: float
    ) -> None:
        """Take the app.

        Args:
            app: Answers.
            threads: Run it; requests wait for one.
            most_bytes: Of a body; a longer one is refused.
            patience: Seconds that a request has to come in whole, and that a client may take
                for the next part of an answer.
        """
        self._app = app
        self._threads = threads
        self._most_bytes = most_bytes
        self._patience = patience
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)
        self.busy: Counter[Peer] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, once it has come in whole."""
        try:
            body = await self._read(scope, receive)
        except RefusedRequestError as refusal:
            await self.send(refuse(refusal), send)
            return
        peer: Peer = scope["client"]
        self.busy[peer] += 1
        try:
            answer = await self._in_thread(call, self._app, make_environ(scope, body))
            if answer.body is None:
                await self._stream(answer, receive, send)
                return
        finally:
            self.busy[peer] -= 1
            if not self.busy[peer]:
                del self.busy[peer]
        await self.send(answer, send)

    async def send(self, answer: HttpAnswer, send: Send) -> None:
        """Send an answer that is complete, no faster than the client takes it."""
        body = answer.body or b""
        try:
            await send(answer.start())
            for begin in range(0, len(body), SLICE):
                more = begin + SLICE < len(body)
                message = body_message(body[begin : begin + SLICE], more=more)
                await asyncio.wait_for(send(message), self._patience)
            if not body:
                await send(body_message(b"", more=False))
        except TimeoutError:
            _log.info("a client did not read its answer", status=answer.status)
        finally:
            answer.close()

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """Return the body.

        Raises:
            RefusedRequestError: It is too long, takes too long, or breaks off.
        """
        length = int(dict(scope["headers"]).get(b"content-length", 0))
        if length > self._most_bytes:
            raise RefusedRequestError(413, f"the body has {length} bytes; send at most a MiB")
        body = bytearray()
        try:
            async with asyncio.timeout(self._patience):
                if await self._receive(receive, body, _SMALL):
                    async with self._large:
                        if await self._receive(receive, body, self._most_bytes):
                            raise RefusedRequestError(
                                413, "the body is too long; send at most a MiB"
                            )
        except TimeoutError:
            raise RefusedRequestError(
                408, f"the request did not come in whole in {self._patience:g} s"
            ) from None
        return bytes(body)

    @staticmethod
    async def _receive(receive: Receive, body: bytearray, most: int) -> bool:
        """Read to the end, or to more than so many bytes; return whether there is more.

        Raises:
            RefusedRequestError: The client has gone before the end, or its chunks are none.
        """
        while len(body) <= most:
            message = await receive()
            if message["type"] != "http.request":
                raise RefusedRequestError(400, "the body breaks off, or its chunks are malformed")
            body += message.get("body", b"")
            if not message.get("more_body"):
                return False
        return True

    async def _stream(self, answer: HttpAnswer, receive: Receive, send: Send) -> None:
        """Send chunks as they come, until their end or until the client has gone."""
        gone = asyncio.ensure_future(receive())
        chunks = iter(answer.chunks)
        try:
            await send(answer.start())
            while not gone.done():
                chunk = await self._in_thread(next, chunks, None)
                if chunk is None:
                    break
                await asyncio.wait_for(send(body_message(chunk, more=True)), self._patience)
            await send(body_message(b"", more=False))
        except TimeoutError:
            _log.info("a client did not read its stream")
        finally:
            gone.cancel()
            answer.close()

    async def _in_thread(self, function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)


def body_message(body: bytes, *, more: bool) -> dict[str, Any]:
    """Return ASGI's message with a part of the body."""
    return {"type": "http.response.body", "body": body, "more_body": more}


def call(app: WSGIApplication, environ: WSGIEnvironment) -> HttpAnswer:
    """Call a WSGI app; what it fails at is answered in our words and logged.

    A body whose length the app gives is read to its end; whatever comes without one is a stream.
    """
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_rest: object) -> Any:  # noqa: ANN401
        started.append((status, headers))
        return None

    try:
        chunks = app(environ, start_response)
        status, headers = started[-1]
        names = {name.lower() for name, _ in headers}
        complete = "content-length" in names or status.startswith(("204", "304"))
        body = b"".join(chunks) if complete else None
    except Exception:  # noqa: BLE001 - the last to see it; it is logged
        _log.exception("request failed", method=environ["REQUEST_METHOD"])
        return refuse(RefusedRequestError(500, "the service failed"))
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    close = getattr(chunks, "close", _nothing)
    return HttpAnswer(int(status[:3]), [SERVER, *encoded], body, chunks, close)


def _nothing() -> None:
    """Close what needs no closing."""


def make_environ(scope: Scope, body: bytes) -> WSGIEnvironment:
    """Return what a WSGI app gets of a request.

    A header whose name has an underscore is left out: it would be taken for another one.

    Source: PEP 3333; https://asgi.readthedocs.io/en/latest/specs/www.html
    """
    raw_path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(raw_path).decode("latin-1"),
        "QUERY_STRING": query,
        "RAW_URI": f"{raw_path}?{query}" if query else raw_path,
        "SERVER_NAME": scope["server"][0],
        "SERVER_PORT": str(scope["server"][1]),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": scope["client"][0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": BytesIO(body),
        "wsgi.errors": None,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in _environ_headers(scope["headers"]):
        environ[name] = f"{environ[name]},{value}" if name in environ else value
    if body or "CONTENT_LENGTH" in environ:
        environ["CONTENT_LENGTH"] = str(len(body))
    return environ


def _environ_headers(headers: Headers) -> Iterator[tuple[str, str]]:
    for name, value in headers:
        if b"_" not in name:
            key = name.decode("latin-1").upper().replace("-", "_")
            plain = key in {"CONTENT_TYPE", "CONTENT_LENGTH"}
            yield (key if plain else f"HTTP_{key}"), value.decode("latin-1")
