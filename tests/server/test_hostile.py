"""Clients that mean harm, none with a token; another client's ``/health`` is the witness."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from tests.server.running import RunningServer

Start = Callable[..., RunningServer]
BODY = b"x" * (32 * 1024 * 1024)
"""More than the kernel takes for a client that reads nothing."""
PIPELINED = b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n" * 200
CHUNKS, LENGTH = b"Transfer-Encoding: chunked\r\n", b"Content-Length: 2\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\n" + CHUNKS + b"\r\n"
FOR_EVER = 100_000.0
THREADS = 2
LONG = 2.0
"""Seconds; twice what a request has to come in whole."""


class App:
    """Answers ``/health``, what is large, what hangs, and what was sent."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.hanging = threading.Semaphore(0)
        self.may_answer = threading.Event()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.asked[path] += 1
        body = {"/large": BODY, "/echo": b""}.get(path, b"ok")
        if path == "/hang":
            self.hanging.release()
            assert self.may_answer.wait(300)
        if path == "/echo":
            body = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]


class Attack:
    """A server under attack, and the connections of the attackers."""

    def __init__(self, start: Start, stack: ExitStack) -> None:
        self.app = App()
        self._start = start
        self._stack = stack

    def start(self, **options: object) -> None:
        options = {"threads": THREADS, "never_wait": ["/health"], "grace": 0.1, **options}
        self.server = self._start(self.app, **options)

    def connect(self) -> socket.socket:
        return self._stack.enter_context(self.server.connect())

    def send(self, request: bytes) -> socket.socket:
        client = self.connect()
        client.sendall(request)
        return client

    def send_with_little_room(self, request: bytes) -> socket.socket:
        """Send a request; the kernel takes little of an answer that is not read."""
        client = self._stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(300)
        client.connect(("127.0.0.1", self.server.port))
        client.sendall(request)
        return client

    def ask(self, path: str = "/health", head: str = "") -> bytes:
        """Return the status line of an answer to a client that means well."""
        request = f"GET {path} HTTP/1.1\r\nHost: h\r\n{head}Connection: close\r\n\r\n"
        return self.send(request.encode()).makefile("rb").readline()


@pytest.fixture
def attack(start: Start) -> Iterator[Attack]:
    with ExitStack() as stack:
        yield Attack(start, stack)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("connections", [8, 150])  # contrib/attack has 1000
def test_pipelined_answers_that_nobody_reads(attack: Attack, connections: int) -> None:
    attack.start()
    attackers = [attack.send_with_little_room(PIPELINED) for _ in range(connections)]
    for attacker in attackers:
        assert attacker.recv(1)  # its first answer has begun
    assert attack.ask() == OK
    assert attack.ask("/other") == OK
    assert attack.app.asked["/large"] == connections
    attack.server.stop()
    attack.server.join()


def test_who_reads_gets_all_pipelined_answers_in_order(attack: Attack) -> None:
    attack.start()
    paths = [f"/echo?{number}" for number in range(300)]
    client = attack.connect()
    requests = "".join(
        f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n{number:04}"
        for number, path in enumerate(paths)
    )
    client.sendall(requests.encode())
    answers = client.makefile("rb")
    for number in range(300):
        assert list(iter(answers.readline, b"\r\n"))[0] == OK  # noqa: RUF015 - the head is read
        assert answers.read(4) == f"{number:04}".encode()


@pytest.mark.parametrize("request_timeout", [0.2, FOR_EVER])
def test_who_never_reads_is_cut_off(attack: Attack, request_timeout: float) -> None:
    attack.start(grace=FOR_EVER, request_timeout=request_timeout)
    assert attack.send(PIPELINED).recv(1)
    attack.server.stop()
    attack.server.join()  # which would take the grace, if the connection were still answered


def test_whoever_comes_is_served_though_all_connections_have_unread_answers(
    attack: Attack,
) -> None:
    attack.start(connections=20)
    for _ in range(250):
        attack.send(PIPELINED)
    assert attack.ask() == OK


def test_a_thousand_idle_connections_hold_up_nobody(attack: Attack) -> None:
    attack.start(connections=100)
    for _ in range(1000):
        attack.connect()
    assert attack.ask() == OK
    assert attack.ask("/other") == OK


@pytest.mark.parametrize(
    "beginning", [b"GET / HTTP/1.1\r\nX: ", b"POST /echo HTTP/1.1\r\nContent-Length: 9\r\n\r\n"]
)
def test_who_sends_a_byte_at_a_time_holds_up_nobody(attack: Attack, beginning: bytes) -> None:
    attack.start()
    clients = [attack.send(beginning) for _ in range(50)]
    for _ in range(5):
        for client in clients:
            client.sendall(b"a")
        assert attack.ask("/other") == OK
    assert not attack.app.asked["/echo"]


def test_a_body_that_never_ends_is_given_up(attack: Attack, server: str) -> None:
    attack.start(request_timeout=0.2)
    client = attack.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc")
    answer = client.makefile("rb").read()
    assert answer.split()[1:2] == ([b"408"] if server == "granian" else [])
    assert not attack.app.asked


def test_a_head_that_never_ends_is_given_up(attack: Attack) -> None:
    attack.start(request_timeout=0.2, idle_timeout=1)
    client = attack.send(b"GET / HTTP/1.1\r\nX: ")
    client.makefile("rb").read()  # whatever it says, it ends
    assert not attack.app.asked


def test_after_a_long_silence_a_body_may_follow_its_head_later(attack: Attack) -> None:
    attack.start(request_timeout=LONG / 2, idle_timeout=300)
    clients = [attack.send(b"GET /other HTTP/1.1\r\nHost: h\r\n\r\n") for _ in range(10)]
    time.sleep(LONG)
    head = b"POST /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"
    for client in clients:
        client.sendall(head)
    for client in clients:
        client.sendall(b"hello")
        assert client.makefile("rb").read().endswith(b"\r\n\r\nhello")


def test_what_never_waits_is_answered_while_all_threads_hang(attack: Attack) -> None:
    attack.start(grace=300.0)
    hanging = [attack.send(b"GET /hang HTTP/1.1\r\nHost: h\r\n\r\n") for _ in range(5 * THREADS)]
    for _ in range(THREADS):
        assert attack.app.hanging.acquire(timeout=300)
    assert attack.ask() == OK
    attack.app.may_answer.set()
    assert [each.recv(len(OK)) for each in hanging] == [OK] * len(hanging)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\nContent-Length: 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"GET http://[x/ HTTP/1.1\r\nHost: h\r\n\r\n",
    ],
    ids=["old-chunks", "empty-encoding", "length", "uri"],
)
def test_a_head_that_could_be_read_in_two_ways_is_refused(
    attack: Attack, server: str, request_: bytes
) -> None:
    attack.start()
    head, _, body = attack.send(request_).makefile("rb").read().partition(b"\r\n\r\n")
    assert head.split()[1] == b"400"
    if body or server == "waitress":  # granian refuses some before anybody of ours sees them
        assert json.loads(body)["code"] == "bad_request"
    assert not attack.app.asked
    assert attack.ask() == OK


@pytest.mark.parametrize("start_of_line", [b"1;", b"0\r\nX: "], ids=["chunk-line", "trailer"])
def test_a_line_that_is_no_chunk_has_an_end(
    attack: Attack, server: str, start_of_line: bytes
) -> None:
    attack.start()
    more = {"granian": 16 * 1024 + 2, "waitress": 4096 + 2}[server]  # than each reads of one
    client = attack.send(CHUNKED + start_of_line + b"a" * more)
    assert client.makefile("rb").readline().split()[1] == b"400"
    assert not attack.app.asked
    assert attack.ask() == OK


@pytest.mark.parametrize("lengths", [[CHUNKS, LENGTH], [LENGTH, CHUNKS]])
def test_of_chunks_and_a_length_the_length_counts_nothing(
    attack: Attack, server: str, lengths: list[bytes]
) -> None:
    """waitress refuses both; granian drops the length, as RFC 9112, section 6.3, allows."""
    attack.start()
    head = b"POST /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\n" + b"".join(lengths)
    answer = attack.send(head + b"\r\n5\r\nhello\r\n0\r\n\r\n").makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ") is (server == "waitress")
    assert answer.endswith(b"\r\n\r\nhello") is (server == "granian")


def test_a_chunk_line_of_8_mb_ends_the_connection(attack: Attack) -> None:
    attack.start()
    client = attack.connect()
    with suppress(OSError):  # it is closed while this is sent
        client.sendall(CHUNKED + b"1;" + b"a" * 8 * 1024 * 1024)
    assert attack.ask() == OK
    with suppress(ConnectionResetError):
        while client.recv(65_536):
            pass
    assert not attack.app.asked["/"]


def test_a_path_that_is_too_long_is_refused(attack: Attack) -> None:
    attack.start()
    assert attack.ask("/" + "a" * 32 * 1024).split()[1] == b"431"
    assert attack.ask() == OK


def test_who_expects_to_go_on_is_told_so_only_if_a_body_comes(attack: Attack) -> None:
    attack.start()
    assert attack.ask(head="Expect: 100-continue\r\n") == OK
    client = attack.send(
        b"POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n"
        b"Connection: close\r\n\r\n"
    )
    answer = client.makefile("rb")
    assert answer.readline() == b"HTTP/1.1 100 Continue\r\n"
    assert answer.readline() == b"\r\n"
    client.sendall(b"hello")
    assert answer.read().endswith(b"\r\n\r\nhello")
