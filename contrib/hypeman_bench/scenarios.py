"""What is measured, on which hosts, and what is hoped for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hypeman_bench import host_files, local_libvirt, servers
from hypeman_bench.load import Load, many_clients, one_client, one_writer, round_trip
from hypeman_bench.servers import Server

Measure = Callable[[float], float]
"""Loads for so many seconds and returns the figure of one round."""

LoadOf = Callable[[Server, str, float], Load]
"""Loads one path of a server for so many seconds."""

DEVICE = "/devices/gpu-0"
FREE = host_files.address(29)
"""A device that nobody registered, of hosts with fewer registrations."""


@dataclass(frozen=True)
class Scenario:
    """One line of the table.

    Attributes:
        name: For people, and for ``--only``.
        unit: What the ratio is a multiple of.
        prepare: Starts the servers; the function that it yields measures one round.
        target: None where there is none.
        best: Whether the target is a least or a most.
        on_waitress: The target there, where it is another one.
    """

    name: str
    unit: str
    prepare: Callable[[Path], AbstractContextManager[Measure]]
    target: float | None = None
    best: Literal["least", "most"] = "least"
    on_waitress: float | None = None


def list_scenarios() -> list[Scenario]:
    """List every line, in the order of the table."""
    return [
        *_reads(),
        *_lists(),
        *_writes(),
        *_domains(),
        *_changes(),
        Scenario("p99 of GET while a bind hangs, against rest", "x", _hanging, 2.0, "most"),
        Scenario("start to ready, against importing", "x", _start, 1.5, "most"),
        Scenario("memory at 1000 registered, against bare", "x", _memory, 1.3, "most"),
        *_commands(),
    ]


def _reads() -> list[Scenario]:
    lines = []
    for registered in (1, 100, 10_000):
        last = registered - 1
        for what, path in (("{id}", f"bench{last:019d}"), ("{name}", f"gpu-{last}")):
            for clients, load, target, slow in (
                (16, many_clients, 4.0, 0.5),
                (1, one_client, 1.3, 0.6),
            ):
                name = f"GET /devices/{what}, {registered} registered, {clients} client(s)"
                prepare = _against_bare(f"/devices/{path}", registered=registered, load=load)
                lines.append(Scenario(name, "F", prepare, target, on_waitress=slow))
    return lines


def _lists() -> list[Scenario]:
    lists = {1: None, 100: 0.6, 1000: 0.02}
    available = {30: None, 200: 0.6}
    return [
        *(
            Scenario(
                f"GET /devices, {registered} registered",
                "F",
                _against_bare("/devices", registered=registered, devices=200),
                target,
                on_waitress=target and min(target, 0.2),
            )
            for registered, target in lists.items()
        ),
        *(
            Scenario(
                f"GET /devices/available, {devices} functions",
                "F",
                _against_bare("/devices/available", registered=10, devices=devices),
                target,
                on_waitress=target and min(target, 0.1),
            )
            for devices, target in available.items()
        ),
    ]


def _writes() -> list[Scenario]:
    return [
        Scenario("POST + DELETE, 10 registered", "F round trips", _pair(10), 8, "most"),
        Scenario("POST + DELETE, 10000 registered", "F round trips", _pair(10_000), 8, "most"),
        Scenario("POST + DELETE, 10000 against 10 registered", "x", _pairs, 1.2, "most"),
    ]


def _domains() -> list[Scenario]:
    driver = "test driver"
    return [
        Scenario(
            f"GET /devices/{{id}}, 10 domains, {driver}",
            "F",
            _with_domains(10),
            4.0,
            on_waitress=0.5,
        ),
        Scenario(
            f"GET /devices/{{id}}, 1000 domains, {driver}",
            "F",
            _with_domains(1000),
            4.0,
            on_waitress=0.5,
        ),
        *(
            Scenario(
                f"time at 1000 domains against 10, {driver}, {clients} client(s)",
                "x",
                _more_domains(load),
                1.2,
                "most",
            )
            for clients, load in ((16, many_clients), (1, one_client))
        ),
        Scenario(
            "GET /devices/{id}, 10 domains, libvirtd", "F", _on_libvirtd(10), 4.0, on_waitress=0.5
        ),
        Scenario(
            "GET /devices/{id}, 1000 domains, libvirtd",
            "F",
            _on_libvirtd(1000),
            4.0,
            on_waitress=0.5,
        ),
    ]


def _changes() -> list[Scenario]:
    """List what a change costs on the host itself, where libvirt's files can be seen."""
    lines = []
    to_running = ("attach, running", "detach, running")
    for name in ("register", "bind", "attach", "detach", *to_running, "unbind", "unregister"):
        time_ratio = Scenario(
            f"{name} at 1000 domains against 10", "x", _time_of(name), 1.3, "most"
        )
        lines += [time_ratio, Scenario(f"{name}, 1000 domains", "libvirt calls", _calls_of(name))]
    return lines


def _time_of(operation: str) -> Callable[[Path], AbstractContextManager[Measure]]:
    @contextmanager
    def prepare(_: Path) -> Iterator[Measure]:
        def measure(seconds: float) -> float:
            took = servers.changes(seconds, 10, 1000)[operation]
            return took["1000"][0] / took["10"][0]

        yield measure

    return prepare


def _commands() -> list[Scenario]:
    """List the commands that must answer at once: half of what importing two libraries takes."""
    pressed_tab = {
        "COMP_LINE": "hypeman-libvirt devices ",
        "_HYPEMAN_LIBVIRT_COMPLETE": "bash_complete",
    }
    commands: list[tuple[str, list[str], dict[str, str]]] = [
        ("--version", ["--version"], {}),
        ("--help", ["--help"], {}),
        ("devices --help", ["devices", "--help"], {}),
        ("TAB", [], pressed_tab),
    ]
    return [
        Scenario(f"command {name}, against importing", "x", _command(flags, variables), 0.5, "most")
        for name, flags, variables in commands
    ]


def _command(
    flags: list[str], variables: dict[str, str]
) -> Callable[[Path], AbstractContextManager[Measure]]:
    """Compare a command with ``import sqlalchemy, falcon``, by turns."""
    imports = [sys.executable, "-c", "import sqlalchemy, falcon"]
    ours = [sys.executable, "-m", "hypeman_libvirt", *flags]

    @contextmanager
    def prepare(_: Path) -> Iterator[Measure]:
        yield lambda _: _wall(ours, variables) / _wall(imports, {})

    return prepare


def _calls_of(operation: str) -> Callable[[Path], AbstractContextManager[Measure]]:
    @contextmanager
    def prepare(_: Path) -> Iterator[Measure]:
        yield lambda _: servers.changes(0.0, 1000)[operation]["1000"][1]

    return prepare


def _wall(command: list[str], variables: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=os.environ | variables, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def _against_bare(
    path: str,
    *,
    registered: int,
    devices: int = 30,
    load: LoadOf = many_clients,
) -> Callable[[Path], AbstractContextManager[Measure]]:
    """Compare reads per second with those of the bare app."""

    @contextmanager
    def prepare(directory: Path) -> Iterator[Measure]:
        uri = host_files.write_host(directory / f"{devices}.xml", devices, domains=10, holding=3)
        with servers.ours(directory, uri, registered) as ours, servers.bare() as bare:
            yield lambda seconds: _ratio(load, ours, path, bare, seconds)

    return prepare


def _ratio(load: LoadOf, ours: Server, path: str, bare: Server, seconds: float) -> float:
    mine = load(ours, path, seconds)
    return mine.per_second / load(bare, DEVICE, seconds).per_second


def _pair(registered: int) -> Callable[[Path], AbstractContextManager[Measure]]:
    """Compare the time of a registration and its end with a round trip to the bare app."""

    @contextmanager
    def prepare(directory: Path) -> Iterator[Measure]:
        uri = host_files.write_host(directory / "writes.xml", 400, domains=10, holding=3)
        with servers.ours(directory, uri, registered) as ours, servers.bare() as bare:

            def measure(seconds: float) -> float:
                mine = round_trip(one_writer(ours, host_files.address(399), seconds))
                return mine / round_trip(one_client(bare, DEVICE, seconds))

            yield measure

    return prepare


@contextmanager
def _pairs(directory: Path) -> Iterator[Measure]:
    uri = host_files.write_host(directory / "writes.xml", 400, domains=10, holding=3)
    with servers.ours(directory, uri, 10_000) as many, servers.ours(directory, uri, 10) as few:
        address = host_files.address(399)

        def measure(seconds: float) -> float:
            with_many = round_trip(one_writer(many, address, seconds))
            return with_many / round_trip(one_writer(few, address, seconds))

        yield measure


def _with_domains(domains: int) -> Callable[[Path], AbstractContextManager[Measure]]:
    @contextmanager
    def prepare(directory: Path) -> Iterator[Measure]:
        uri = _host_with_domains(directory, domains)
        with servers.ours(directory, uri, 10) as ours, servers.bare() as bare:
            yield lambda seconds: _ratio(many_clients, ours, DEVICE, bare, seconds)

    return prepare


def _more_domains(load: LoadOf) -> Callable[[Path], AbstractContextManager[Measure]]:
    @contextmanager
    def prepare(directory: Path) -> Iterator[Measure]:
        few, many = (_host_with_domains(directory, number) for number in (10, 1000))
        with servers.ours(directory, many, 10) as loaded, servers.ours(directory, few, 10) as idle:

            def measure(seconds: float) -> float:
                with_many = round_trip(load(loaded, DEVICE, seconds))
                return with_many / round_trip(load(idle, DEVICE, seconds))

            yield measure

    return prepare


def _host_with_domains(directory: Path, domains: int) -> str:
    return host_files.write_host(
        directory / f"domains-{domains}.xml", 30, domains, min(domains, 100)
    )


def _on_libvirtd(domains: int) -> Callable[[Path], AbstractContextManager[Measure]]:
    @contextmanager
    def prepare(directory: Path) -> Iterator[Measure]:
        with ExitStack() as stack:
            stack.enter_context(local_libvirt.defining(domains, min(domains, 100)))
            ours = stack.enter_context(servers.ours(directory, local_libvirt.URI, 10))
            bare = stack.enter_context(servers.bare())
            yield lambda seconds: _ratio(many_clients, ours, DEVICE, bare, seconds)

    return prepare


@contextmanager
def _hanging(_: Path) -> Iterator[Measure]:
    """Compare two of ours, of which one has a bind that does not return."""
    with servers.ours_that_can_hang() as hung, servers.ours_that_can_hang() as rested:
        for server in (hung, rested):
            for name, address in (("gpu-0", "0000:01:00.0"), ("gpu-1", "0000:02:00.0")):
                body = {"pci_address": address, "name": name}
                server.send(server.connect(), "POST", "/devices", body)
        _let_a_bind_hang(hung)

        def measure(seconds: float) -> float:
            while_hung = many_clients(hung, DEVICE, seconds).p99
            return while_hung / many_clients(rested, DEVICE, seconds).p99

        yield measure


def _let_a_bind_hang(server: Server) -> None:
    connection = server.connect()
    connection.request("POST", "/devices/gpu-1/bind", "{}", server.headers)
    status = connection.getresponse().status  # after the deadline; libvirt hangs on
    if status != 504:  # noqa: PLR2004 - timeout
        sys.exit(f"bench: a bind that hangs answered {status}")


@contextmanager
def _start(directory: Path) -> Iterator[Measure]:
    """Compare the time until ours answers with that of importing the same libraries."""
    uri = host_files.write_host(directory / "start.xml", 30, domains=10, holding=3)
    registry = directory / "start.db"
    servers.seed(registry, uri, 10)
    bare = [sys.executable, str(Path(servers.__file__).with_name("bare.py"))]

    def measure(_: float) -> float:
        port = servers.free_port()
        began = time.perf_counter()
        command = servers.command(port, registry, "--uri", uri)
        with servers.serving(command, port, **servers.environment()):
            ready = time.perf_counter() - began
        began = time.perf_counter()
        subprocess.run(bare, check=True)
        return ready / (time.perf_counter() - began)

    yield measure


@contextmanager
def _memory(directory: Path) -> Iterator[Measure]:
    """Compare what ours needs once everything was read with the idle bare app."""
    uri = host_files.write_host(directory / "memory.xml", 200, domains=10, holding=3)
    with servers.ours(directory, uri, 1000) as ours, servers.bare() as bare:

        def measure(seconds: float) -> float:
            for path in ("/devices", "/devices/available", DEVICE):
                one_client(ours, path, seconds / 3)
            return ours.memory() / bare.memory()

        yield measure
