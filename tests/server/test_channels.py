"""What is ours of a connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from tests.server.running import RunningServer

Start = Callable[..., RunningServer]
REQUEST = b"DELETE /devices/l4 HTTP/1.1\r\nHost: h\r\n"


def deleting(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("204 No Content", [])
    return [b""]


def test_an_answer_without_a_body_keeps_the_connection(start: Start) -> None:
    with start(deleting).connect() as client:
        answers = client.makefile("rb")
        for _ in range(2):
            client.sendall(REQUEST + b"\r\n")
            head = b"".join(iter(answers.readline, b"\r\n"))
            assert head.startswith(b"HTTP/1.1 204 ")
            assert b"connection: close" not in head.lower()
        client.sendall(REQUEST + b"Connection: close\r\n\r\n")
        assert b"connection: close" in answers.read().lower()


def test_an_answer_to_an_old_client_ends_with_the_connection(start: Start) -> None:
    with start(deleting).connect() as client:
        client.sendall(REQUEST.replace(b"1.1", b"1.0") + b"\r\n")
        assert client.makefile("rb").read().startswith(b"HTTP/1.0 204 ")
