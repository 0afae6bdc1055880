"""A libvirt that hangs holds up what waits for it, and nothing else."""

from __future__ import annotations

import json
import select
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hypeman_libvirt.rest.routes import NEVER_WAIT
from tests.api.client import token
from tests.api.whole_app import whole_app
from tests.fake_host import FakeHost
from tests.world import OPERATOR, World, world_on

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost
    from tests.server.running import RunningServer

PING = "numOfDevices"
A_WHILE = 300.0
TOO_MANY = 40
BIND = "detachFlags"


@pytest.fixture
def world(libvirt_host: LibvirtHost, tmp_path: Path) -> Iterator[World]:
    with world_on(libvirt_host, tmp_path, deadline=300.0) as world:
        yield world


@contextmanager
def served(world: World, server: str) -> Iterator[RunningServer]:
    from hypeman_libvirt.bootstrap import count_threads  # noqa: PLC0415  # after the level
    from tests.server.running import running  # noqa: PLC0415

    options = {"threads": count_threads(world.settings), "never_wait": NEVER_WAIT}
    with running(whole_app(world), server=server, **options) as one:
        yield one


class Clients:
    """Connections that stay open."""

    def __init__(self, server: RunningServer, stack: ExitStack) -> None:
        self._server = server
        self._stack = stack

    def send(
        self, method: str, path: str, body: object = None, subject: str = "operator"
    ) -> socket.socket:
        """Send a request and await no answer."""
        client = self._stack.enter_context(self._server.connect())
        raw = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
        head += f"Authorization: Bearer {token(sub=subject)}\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        return client

    def status(self, method: str, path: str) -> bytes:
        """Send a request; return the first line of its answer."""
        return status_of(self.send(method, path))


def status_of(client: socket.socket) -> bytes:
    return client.makefile("rb").readline().partition(b" ")[2].strip()


def wait_for_answers(asking: list[socket.socket], count: int) -> list[socket.socket]:
    answered: list[socket.socket] = []
    while len(answered) < count:
        answered, _, _ = select.select(asking, [], [], A_WHILE)
        assert answered
    return answered


@pytest.fixture
def clients(world: World, server: str) -> Iterator[Clients]:
    with ExitStack() as stack:
        yield Clients(stack.enter_context(served(world, server)), stack)


def test_health_is_answered_while_every_request_that_may_waits(
    world: World, clients: Clients, fake_host: FakeHost
) -> None:
    places = world.settings.threads + world.settings.operations + world.settings.event_listeners
    hang = fake_host.hang(PING)
    asking = [clients.send("GET", "/ready") for _ in range(places + TOO_MANY)]
    assert clients.status("GET", "/health") == b"200 OK"
    assert clients.status("GET", "/spec.yaml") == b"200 OK"
    refused = wait_for_answers(asking, TOO_MANY)
    assert {status_of(each) for each in refused} == {b"503 Service Unavailable"}
    assert clients.status("GET", "/health") == b"200 OK"
    hang.release()
    assert {status_of(each) for each in asking if each not in refused} == {b"200 OK"}


def test_reads_are_answered_while_as_many_changes_and_followers_wait_as_may(
    world: World, clients: Clients, fake_host: FakeHost
) -> None:
    names = [f"gpu-{number}" for number in range(world.settings.operations + 1)]
    addresses = [f"0000:b{number}:00.0" for number in range(len(names))]
    for number, address in enumerate(addresses):
        fake_host.add_pci(address, driver="nvidia", group=100 + number)
    for name, address in zip(names, addresses, strict=True):
        world.service.register(address, name, {}, OPERATOR)
    followers = [
        clients.send("GET", "/devices/events", subject=f"follower-{number}")
        for number in range(world.settings.event_listeners)
    ]
    assert {status_of(each) for each in followers} == {b"200 OK"}
    hang = fake_host.hang(BIND)
    changes = [clients.send("POST", f"/devices/{name}/bind") for name in names]
    refused = wait_for_answers(changes, 1)
    assert {status_of(each) for each in refused} == {b"503 Service Unavailable"}
    for _ in range(world.settings.threads):
        assert clients.status("GET", f"/devices/{names[0]}") == b"200 OK"
    assert clients.status("GET", "/devices/events") == b"503 Service Unavailable"
    hang.release()
    assert {status_of(each) for each in changes if each not in refused} == {b"200 OK"}


def test_a_follower_that_has_gone_makes_room(world: World, clients: Clients) -> None:
    follower = clients.send("GET", "/devices/events")
    assert status_of(follower) == b"200 OK"
    assert world.service.event_feed.listeners == 1
    follower.close()
    while world.service.event_feed.listeners:  # a sign of life finds nobody there
        pass


def test_health_is_answered_while_another_process_holds_the_registrys_lock(
    world: World, clients: Clients, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "registry.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        body = {"pci_address": "0000:a2:00.0", "name": "l4"}
        posts = [clients.send("POST", "/devices", body) for _ in range(TOO_MANY)]
        assert clients.status("GET", "/health") == b"200 OK"
        refused = wait_for_answers(posts, TOO_MANY - world.settings.operations)
        assert clients.status("GET", "/health") == b"200 OK"
        other.execute("ROLLBACK")
    assert {status_of(each) for each in refused} == {b"503 Service Unavailable"}
