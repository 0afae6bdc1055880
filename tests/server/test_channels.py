"""Requests that wait are not in the way of those that look."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from tests.server.running import RunningServer

Start = Callable[..., RunningServer]
A_WHILE = 300.0


class App:
    """Answers looks at once, and everything else when it is told to."""

    def __init__(self, waiting: int) -> None:
        self.asked = threading.Semaphore(0)
        self.may_answer = threading.Event()
        self._waiting = waiting

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/look":
            self.asked.release()
            assert self.may_answer.wait(A_WHILE)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    def await_all(self) -> None:
        for _ in range(self._waiting):
            assert self.asked.acquire(timeout=A_WHILE)


@pytest.mark.parametrize("request_line", ["POST /devices/x/bind", "GET /devices/events"])
def test_looks_are_answered_while_as_many_as_may_wait_do(start: Start, request_line: str) -> None:
    app = App(waiting=4)
    server = start(app)
    waiting = [server.connect() for _ in range(4)]
    for client in waiting:
        head = f"{request_line} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
        client.sendall(head.encode())
    app.await_all()
    for _ in range(8):
        with server.connect() as looking:
            looking.sendall(b"GET /look HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            assert looking.recv(4096).startswith(b"HTTP/1.1 200")
    app.may_answer.set()
    for client in waiting:
        with client:
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
