from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest

from hypeman_libvirt.server.listening import listen, remove_own_socket
from hypeman_libvirt.server.serve import notify_systemd
from hypeman_libvirt.settings import SettingsError
from tests.server.running import RunningServer

Start = Callable[..., RunningServer]
GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def answering(body: bytes) -> WSGIApplication:
    def app(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    return app


class SlowApp:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.may_answer = threading.Event()

    def __call__(self, _: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.asked.set()
        assert self.may_answer.wait(10)
        start_response("200 OK", [("Content-Length", "4")])
        return [b"done"]


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def exchange(server: RunningServer, request: bytes) -> tuple[bytes, bytes]:
    with server.connect() as connection:
        connection.sendall(request)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
        return head, body


def test_it_answers(start: Start) -> None:
    head, body = exchange(start(answering(b"hello")), GET)
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body == b"hello"


def test_a_running_request_is_finished_before_the_end(start: Start) -> None:
    app = SlowApp()
    server = start(app)
    with server.connect() as connection:
        connection.sendall(GET)
        assert app.asked.wait(10)
        server.stop()
        app.may_answer.set()
        assert read_all(connection).endswith(b"\r\n\r\ndone")
    server.join()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # waitress, over 1 MB
def test_a_long_answer_is_sent_to_its_end(start: Start) -> None:
    body = b"x" * 8_000_000
    server = start(answering(body))
    with server.connect() as connection:
        connection.sendall(GET)
        first = connection.recv(1)
        server.stop()
        assert (first + read_all(connection)).endswith(body)


def test_nothing_new_is_accepted_at_the_end(start: Start) -> None:
    app = SlowApp()
    server = start(app)
    with server.connect() as connection:
        connection.sendall(GET)
        assert app.asked.wait(10)
        server.stop()
        while "streams end" not in server.events:
            pass
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        app.may_answer.set()
        assert read_all(connection).endswith(b"done")


def test_an_idle_connection_does_not_hold_up_the_end(start: Start) -> None:
    server = start(answering(b"hello"))
    with server.connect() as idle:
        idle.sendall(GET.replace(b"Connection: close\r\n", b""))
        answer = idle.makefile("rb")
        assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
        server.stop()
        server.join()
        assert answer.read().endswith(b"\r\n\r\nhello")


def test_a_request_that_hangs_ends_with_the_grace(start: Start) -> None:
    app = SlowApp()
    server = start(app, grace=0.05)
    with server.connect() as connection:
        connection.sendall(GET)
        assert app.asked.wait(10)
        server.stop()
        server.join()
    app.may_answer.set()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: ".ljust(32 * 1024, b"y"), b"431"),
    ],
)
def test_what_is_no_request_is_refused(
    start: Start, server: str, request_: bytes, status: bytes
) -> None:
    head, body = exchange(start(answering(b"hello")), request_)
    assert head.split()[1] == status
    if server == "granian":  # which refuses it before anybody of ours sees it
        assert body == b""
    else:
        assert b"content-type: application/json" in head.lower()
        assert b"x-request-id: " in head.lower()
        assert json.loads(body)["code"] == "bad_request"


def test_a_body_that_is_too_long_gets_the_error_body(start: Start) -> None:
    request = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999\r\n\r\n"
    head, body = exchange(start(answering(b"hello")), request)
    assert head.split()[1] == b"413"
    assert b"content-type: application/json" in head.lower()
    assert b"x-request-id: " in head.lower()
    error = json.loads(body)
    assert error.keys() == {"code", "message"}
    assert error["code"] == "payload_too_large"


def test_an_app_that_fails_says_nothing_of_its_inside(start: Start) -> None:
    def app(_: WSGIEnvironment, __: StartResponse) -> Iterable[bytes]:
        raise RuntimeError("hunter2")

    head, body = exchange(start(app), GET)
    assert head.startswith(b"HTTP/1.1 500")
    assert b"hunter2" not in body
    assert json.loads(body)["code"] == "internal_error"


def test_a_taken_port_is_told() -> None:
    with listen("127.0.0.1:0") as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SettingsError, match=f"cannot listen on {where}: Address already"):
            listen(where)


def test_an_address_of_another_machine_is_told() -> None:
    with pytest.raises(SettingsError, match=r"cannot listen on 192\.0\.2\.1:0: "):
        listen("192.0.2.1:0")


def test_ipv6() -> None:
    with listen("[::1]:0") as listener:
        assert listener.getsockname()[0] == "::1"


def test_a_unix_socket_is_this_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "hypeman.sock"
    with listen(f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_socket_of_a_killed_service_is_replaced(tmp_path: Path) -> None:
    where = f"unix:{tmp_path}/hypeman.sock"
    listen(where).close()
    with listen(where) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.listen()
        client.connect(os.fspath(tmp_path / "hypeman.sock"))


def test_the_socket_of_a_running_service_is_left_alone(tmp_path: Path) -> None:
    where = f"unix:{tmp_path}/hypeman.sock"
    with listen(where) as listener:
        listener.listen()
        with pytest.raises(SettingsError, match="Address already in use"):
            listen(where)


def test_a_service_that_ends_removes_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "hypeman.sock"
    with listen(f"unix:{path}"), remove_own_socket(f"unix:{path}"):
        assert path.is_socket()
    assert not path.exists()


def test_a_service_that_ends_leaves_the_socket_of_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "hypeman.sock"
    where = f"unix:{path}"
    first = listen(where)
    with ExitStack() as successor:
        with remove_own_socket(where):
            first.close()  # and finishes its requests, while the next one starts
            successor.enter_context(listen(where)).listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(path))


def test_a_socket_that_somebody_else_removed_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "hypeman.sock"
    with listen(f"unix:{path}"), remove_own_socket(f"unix:{path}"):
        path.unlink()
    assert not path.exists()


def test_a_file_in_place_of_the_socket_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("data")
    with pytest.raises(SettingsError, match="Address already in use"):
        listen(f"unix:{file}")
    assert file.read_text() == "data"


def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(os.fspath(tmp_path / "notify"))
        notify_systemd("READY=1", os.fspath(tmp_path / "notify"))
        assert systemd.recv(64) == b"READY=1"


def test_systemd_is_told_over_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("")  # the kernel chooses an abstract name
        notify_systemd("STOPPING=1", "@" + systemd.getsockname()[1:].decode())
        assert systemd.recv(64) == b"STOPPING=1"
