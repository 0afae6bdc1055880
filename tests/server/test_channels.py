"""What is ours of a connection."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from waitress.adjustments import Adjustments

from hypeman_libvirt.server.channels import Channel
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


@pytest.fixture
def channel() -> Iterator[Channel]:
    server, (ours, theirs) = SilentServer(), socket.socketpair()
    with ours, theirs:
        yield Channel(server, ours, "client", Adjustments(), map={})


class SilentServer:
    """What a channel needs of a server that answers nothing."""

    def __init__(self) -> None:
        self.active_channels: dict[int, Channel] = {}


def test_a_request_has_its_time_from_its_own_beginning(channel: Channel) -> None:
    channel.idle_since -= 31  # a connection that asked for nothing that long
    assert not channel.is_stuck(30)
    channel.received(b"POST /devices HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n")
    assert not channel.is_stuck(30)
    channel.receiving_since -= 31  # its body does not come
    assert channel.is_stuck(30)
