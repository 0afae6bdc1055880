"""What clients can do to a service. Each attack goes on for some seconds and counts its tries."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Final

from hypeman_attack.target import Target

Attack = Callable[[Target, float], int]
"""Attacks for so many seconds; returns the number of tries."""

_PIPELINED: Final = b"GET /spec.yaml HTTP/1.1\r\nHost: h\r\n\r\n" * 200
_ODD_HEADS: Final = (
    b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    b"GET http://[x/ HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n",
    b"GET /%1b]0;OWNED%07 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
)
_CHUNK_LINE: Final = 8 * 1024 * 1024
_WRONG_TAGS: Final = json.dumps({"tags": {f"tag {n}": n for n in range(60_000)}}).encode()
_LATE: Final = 10
_IDLE: Final = 31.0
_BODY_AFTER: Final = 0.7


def unread(connections: int) -> Attack:
    """Pipeline requests for something large, and read nothing."""

    def attack(target: Target, seconds: float) -> int:
        for _ in range(connections):
            target.send(_PIPELINED)
        time.sleep(seconds)
        return connections

    return attack


def idle(connections: int) -> Attack:
    """Connect and say nothing."""

    def attack(target: Target, seconds: float) -> int:
        for _ in range(connections):
            target.connect()
        time.sleep(seconds)
        return connections

    return attack


def slowly(start: bytes) -> Attack:
    """Send what never ends, a byte at a time, over 200 connections."""

    def attack(target: Target, seconds: float) -> int:
        clients = [target.send(start) for _ in range(200)]
        return sum(1 for _ in _until(seconds) for each in clients if _goes_on(each))

    return attack


def _goes_on(client: socket.socket) -> bool:
    with suppress(OSError):
        client.sendall(b"a")
        return True
    return False


def repeated(*requests: bytes) -> Attack:
    """Send requests one after the other, each over a connection of its own."""

    def attack(target: Target, seconds: float) -> int:
        tries = 0
        for _ in _until(seconds):
            for request in requests:
                tries += 1
                with target.send(request) as client, suppress(OSError):
                    client.shutdown(socket.SHUT_WR)
                    client.recv(65_536)
        return tries

    return attack


def wrong_tags(target: Target, seconds: float) -> int:
    """Send a MiB of wrong tags, with a token, and read the answers."""
    head = f"POST /devices HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {target.server.token}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(_WRONG_TAGS)}\r\n\r\n"
    return repeated(head.encode() + _WRONG_TAGS)(target, seconds)


def late_bodies(target: Target, seconds: float) -> int:
    """Keep connections idle, then send a head, and its body after it; count those dropped."""
    clients = [target.connect() for _ in range(_LATE)]
    for client in clients:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
    time.sleep(max(_IDLE, seconds))
    head = f"POST /devices HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {target.server.token}\r\n"
    for client in clients:
        client.recv(65_536)
        client.sendall(
            f"{head}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n".encode()
        )
    time.sleep(_BODY_AFTER)
    dropped = 0
    for client in clients:
        client.sendall(b"{}")
        dropped += not client.recv(65_536).startswith(b"HTTP/1.1 400")
    if dropped:
        raise RuntimeError(f"{dropped} of {_LATE} were dropped")
    return _LATE


def locked_registry(target: Target, seconds: float) -> int:
    """Send 40 registrations while another process holds the registry's lock."""
    body = b'{"pci_address": "0000:a2:00.0", "name": "l4"}'
    head = f"POST /devices HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {target.server.token}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with closing(sqlite3.connect(target.registry, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(40):
            target.send(head.encode() + body)
        time.sleep(seconds)
        other.execute("ROLLBACK")
    return 40


def _until(seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


_POST: Final = b"POST /devices HTTP/1.1\r\nHost: h\r\n"
ATTACKS: Final[dict[str, Attack]] = {
    "8 clients pipeline GET /spec.yaml and read nothing": unread(8),
    "150 likewise": unread(150),
    "1000 likewise": unread(1000),
    "1000 idle connections": idle(1000),
    "3000 idle connections": idle(3000),
    "200 heads, a byte at a time": slowly(b"GET / HTTP/1.1\r\nX: "),
    "200 bodies, a byte at a time": slowly(_POST + b"Content-Length: 1000000\r\n\r\n"),
    "a chunk line of 8 MiB": repeated(
        _POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * _CHUNK_LINE
    ),
    "paths of 250 kB": repeated(b"GET /devices/" + b"a" * 250_000 + b" HTTP/1.1\r\n\r\n"),
    "paths of 30 kB": repeated(b"GET /devices/" + b"a" * 30_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n"),
    "odd heads": repeated(*_ODD_HEADS),
    "a MiB of wrong tags, with a token": wrong_tags,
    "10 bodies 0.7 s late, after 31 s of silence": late_bodies,
    "40 registrations, the registry locked": locked_registry,
}
