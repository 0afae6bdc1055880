"""Clients that mean no good: the service answers everybody else throughout, and recovers."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.api.client import bearer
from tests.trust.conftest import Figures
from tests.trust.service import Process, serving

pytestmark = [pytest.mark.trust, pytest.mark.usefixtures("fake_host")]  # it serves on the fake

MANY = 10_000
LIMIT = 300
A_WHILE = 30.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(tmp_path_factory.mktemp("service"), connections=LIMIT) as process:
        yield process


def connect(service: Process) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=A_WHILE)


def is_healthy(service: Process) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=A_WHILE)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    finally:
        connection.close()


def devices(service: Process) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=A_WHILE)
    try:
        connection.request("GET", "/devices/available", headers=bearer())
        return connection.getresponse().status
    finally:
        connection.close()


def send(service: Process, *parts: bytes) -> bytes:
    """Send bytes and read all that comes back until the server closes."""
    with connect(service) as client:
        for part in parts:
            client.sendall(part)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := _receive(client):
            answer += chunk
        return answer


def _receive(client: socket.socket) -> bytes:
    try:
        return client.recv(65536)
    except ConnectionResetError:
        return b""


def until_back_to(service: Process, files: int) -> int:
    """Wait until the service has closed what was left to it; return its open files."""
    give_up = time.monotonic() + A_WHILE
    while service.files > files and time.monotonic() < give_up:
        time.sleep(0.05)
    return service.files


def test_ten_thousand_connections_that_are_opened_and_left(
    service: Process, figures: Figures
) -> None:
    assert is_healthy(service)
    memory, files = service.memory, service.files
    answered = 0
    with ExitStack() as stack:
        for number in range(MANY):
            client = stack.enter_context(connect(service))
            if number % 2:
                client.sendall(b"GET /dev")  # and never more
            if number % 1000 == 0:
                answered += is_healthy(service)
        assert service.files <= LIMIT + 300
        grown = service.memory - memory
    assert answered == MANY // 1000
    assert until_back_to(service, files + 2) <= files + 2
    assert devices(service) == 200
    figures("http: connections opened and left, health checks meanwhile", f"{MANY}, {answered}")
    figures("http: memory that they took", f"{grown / 2**20:.1f} MiB")
    assert grown < 64 * 2**20


def test_a_request_that_does_not_end_is_cut_off(tmp_path: Path) -> None:
    """Neither does a byte now and then keep the connection."""
    with serving(tmp_path, request_timeout=1, connections=10) as service:
        with connect(service) as idle, connect(service) as slow:
            gone = sent = 0
            while not gone and sent < 10 * A_WHILE:
                time.sleep(0.1)
                gone = _is_cut(slow)
                sent += 1
            assert gone
            assert not _is_cut(idle)  # it has begun nothing
        assert is_healthy(service)


def _is_cut(client: socket.socket) -> bool:
    try:
        client.sendall(b"G")
    except OSError:
        return True
    return False


def test_a_slow_loris_does_not_keep_others_out(service: Process, figures: Figures) -> None:
    """As many clients as may be connected send a byte now and then."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(service)) for _ in range(LIMIT + 50)]
        answered = 0
        for byte in b"GET /devices HTTP/1.1":
            for client in clients:
                try:
                    client.sendall(bytes([byte]))
                except OSError:
                    continue  # it was closed to make room
            answered += is_healthy(service)
    assert answered == 21
    figures("http: slow clients, health checks meanwhile", f"{len(clients)}, {answered}")


@pytest.mark.parametrize(
    ("name", "request_", "status"),
    [
        ("garbage", b"\x00\xff\x16\x03\x01 hello\r\n\r\n", b"400"),
        ("no version", b"GET\r\n\r\n", b"400"),
        ("huge header", b"GET / HTTP/1.1\r\nX: " + b"a" * 600_000 + b"\r\n\r\n", b"431"),
        ("many headers", b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 100_000 + b"\r\n", b"431"),
        ("huge length", b"POST /devices HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        ("no number", b"POST /devices HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400"),
        ("negative", b"POST /devices HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"400"),
        (
            "two lengths",
            b"POST /devices HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
            b"400",
        ),
        ("odd encoding", b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
    ],
)
def test_what_is_no_request_is_refused_and_nothing_else_suffers(
    service: Process, name: str, request_: bytes, status: bytes
) -> None:
    answer = send(service, request_)
    assert answer[9:12] in {status, b"400"}, f"{name}: {answer[:200]!r}"
    assert b"Traceback" not in answer
    assert is_healthy(service)


def test_length_and_chunks_at_once_smuggle_no_second_request(service: Process) -> None:
    smuggled = (
        b"POST /devices HTTP/1.1\r\nHost: h\r\nContent-Length: 60\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\nHost: h\r\n\r\n"
    )
    answer = send(service, smuggled)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_pipelined_requests_are_answered_in_their_order(service: Process) -> None:
    asked = b"".join(
        b"GET /devices/%d HTTP/1.1\r\nHost: h\r\nX-Request-Id: r%d\r\n\r\n" % (number, number)
        for number in range(50)
    )
    answer = send(service, asked)
    ids = [line[14:] for line in answer.split(b"\r\n") if line.startswith(b"X-Request-Id:")]
    assert [each.strip() for each in ids] == [b"r%d" % number for number in range(50)]


def test_clients_that_go_away_in_the_middle_leave_nothing(service: Process) -> None:
    assert is_healthy(service)
    files = service.files

    def ask_and_leave() -> None:
        for _ in range(50):
            with connect(service) as client:
                client.sendall(b"GET /devices/available HTTP/1.1\r\nHost: h\r\n\r\n")

    threads = [threading.Thread(target=ask_and_leave) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(A_WHILE)
    assert until_back_to(service, files + 2) <= files + 2
    assert devices(service) == 200
