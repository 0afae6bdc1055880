"""granian's own thread answers what does not wait, whatever hangs in the others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from hypeman_libvirt.devices.nonblocking import NonBlocking
from tests.server.running import RunningServer

Start = Callable[..., RunningServer]
THREADS = 2


class App:
    """Answers at once, or says first that it may wait."""

    def __init__(self) -> None:
        self.nonblocking = NonBlocking()
        self.asked: Counter[str] = Counter()
        self.hanging = threading.Semaphore(0)
        self.may_answer = threading.Event()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.asked[f"{environ['REQUEST_METHOD']} {path}"] += 1
        if path != "/cached":
            self.nonblocking.before_waiting()
        if path == "/hang":
            self.hanging.release()
            assert self.may_answer.wait(300)
        body = threading.current_thread().name.encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def server() -> str:
    return "granian"


@pytest.fixture
def ask(start: Start, app: App) -> Iterator[Callable[[str], bytes]]:
    running = start(app, threads=THREADS, nonblocking=app.nonblocking)
    with ExitStack() as stack:

        def ask(request: str) -> bytes:
            client = stack.enter_context(running.connect())
            client.sendall(f"{request} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
            if "hang" in request:
                return b""
            return client.makefile("rb").read().partition(b"\r\n\r\n")[2]

        yield ask
        app.may_answer.set()


def test_what_does_not_wait_is_answered_while_all_threads_hang(
    ask: Callable[[str], bytes], app: App
) -> None:
    for _ in range(THREADS):
        ask("GET /hang")
        assert app.hanging.acquire(timeout=300)
    assert not ask("GET /cached").startswith(b"request-")


def test_what_waits_is_asked_again_in_a_thread_that_may(
    ask: Callable[[str], bytes], app: App
) -> None:
    assert ask("GET /waits").startswith(b"request-")
    assert app.asked["GET /waits"] == 2


def test_a_change_is_never_tried_where_it_must_not_wait(
    ask: Callable[[str], bytes], app: App
) -> None:
    assert ask("POST /cached").startswith(b"request-")
    assert app.asked["POST /cached"] == 1
