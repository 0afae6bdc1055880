"""The service as an operator runs it: a process of its own, on the demo host."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import jwt
import pytest

pytestmark = pytest.mark.testdriver

SECRET = "d41d8cd98f00b204e9800998ecf8427e"
TOKEN = jwt.encode({"sub": "alice"}, SECRET, algorithm="HS256")
GPU = {"pci_address": "0000:a2:00.0", "name": "l4-gpu"}
COMMAND = (sys.executable, "-m", "hypeman_libvirt.cli.main")


class Service:
    """A running service and the lines that it has logged."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []
        self.url: str = self.read_until("serving")["at"]

    def read_until(self, event: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == event:
                return self.log[-1]
        raise AssertionError(f"the service ended before {event!r}: {self.log}")

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        request = urllib.request.Request(  # noqa: S310  # a loopback address
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"},
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return answer.status, json.load(answer)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=300)


@pytest.fixture
def environment(tmp_path: Path, server: str) -> dict[str, str]:
    kept = {key: os.environ[key] for key in os.environ if key.startswith(("COV", "PYTHON"))}
    return kept | {
        "PATH": os.defpath,
        "HOME": str(tmp_path),
        "JWT_SECRET": SECRET,
        "HYPEMAN_LIBVIRT_LISTEN": "127.0.0.1:0",
        "HYPEMAN_LIBVIRT_SERVER": server,
        "HYPEMAN_LIBVIRT_REGISTRY": str(tmp_path / "registry.db"),
    }


@pytest.fixture
def serve(environment: dict[str, str]) -> Iterator[Callable[..., Service]]:
    with ExitStack() as stack:

        def start(*arguments: str) -> Service:
            process = subprocess.Popen(  # noqa: S603  # ours
                [*COMMAND, "serve", *arguments],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return Service(process)

        yield start


def refused(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Start what must not start; return exit status and message."""
    done = subprocess.run(  # noqa: S603  # ours
        [*COMMAND, "serve", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


def test_a_gpu_is_registered_and_still_there_after_a_restart(
    serve: Callable[..., Service],
) -> None:
    first = serve()
    status, device = first.call("POST", "/devices", GPU)
    assert status == 201
    assert first.end(signal.SIGTERM) == 0
    again = serve()
    assert again.call("GET", "/devices/l4-gpu") == (200, device)
    assert again.end(signal.SIGINT) == 0


def test_a_killed_service_loses_no_answered_registration(serve: Callable[..., Service]) -> None:
    first = serve()
    _, device = first.call("POST", "/devices", GPU)
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    assert serve().call("GET", "/devices") == (200, [device])


def test_the_log_names_who_registered_what_and_no_token(serve: Callable[..., Service]) -> None:
    service = serve()
    _, device = service.call("POST", "/devices", GPU)
    registered = service.read_until("register")
    answered = service.read_until("request")
    assert registered["subject"] == answered["subject"] == "alice"
    assert registered["request_id"] == answered["request_id"]
    assert registered["device_id"] == device["id"]
    assert answered["status"] == 201
    assert TOKEN not in json.dumps(service.log)
    assert SECRET not in json.dumps(service.log)


def test_an_event_stream_does_not_hold_up_the_end(serve: Callable[..., Service]) -> None:
    service = serve()
    connection = HTTPConnection(service.url.removeprefix("http://"), timeout=300)
    connection.request("GET", "/devices/events", headers={"Authorization": f"Bearer {TOKEN}"})
    stream = connection.getresponse()
    assert stream.readline().startswith(b":")
    assert service.end(signal.SIGTERM) == 0
    connection.close()


def test_auth_off_serves_without_a_token_on_a_unix_socket(
    serve: Callable[..., Service], environment: dict[str, str], tmp_path: Path
) -> None:
    del environment["JWT_SECRET"]
    service = serve("--auth", "off", "--listen", f"unix:{tmp_path}/hypeman.sock")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/hypeman.sock")
        client.sendall(b"GET /devices HTTP/1.0\r\n\r\n")
        assert client.makefile("rb").readline() == b"HTTP/1.0 200 OK\r\n"
    assert service.end(signal.SIGTERM) == 0
    assert not (tmp_path / "hypeman.sock").exists()


def test_systemd_is_told_when_it_serves_and_when_it_stops(
    serve: Callable[..., Service], environment: dict[str, str], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(300)
        systemd.bind(str(tmp_path / "notify"))
        environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        service = serve()
        assert systemd.recv(64) == b"READY=1"
        service.end(signal.SIGTERM)
        assert systemd.recv(64) == b"STOPPING=1"


def test_it_starts_while_libvirt_is_down(serve: Callable[..., Service], tmp_path: Path) -> None:
    service = serve("--uri", f"qemu+unix:///system?socket={tmp_path}/nobody")
    assert service.call("GET", "/health") == (200, {"status": "ok"})
    with pytest.raises(urllib.error.HTTPError) as failed:
        service.call("GET", "/ready")
    assert failed.value.code == 503
    assert json.load(failed.value)["code"] == "libvirt_unavailable"


def test_an_address_that_others_reach_is_warned_about(serve: Callable[..., Service]) -> None:
    service = serve("--listen", "0.0.0.0:0")
    assert [line["level"] for line in service.log[-2:]] == ["warning", "info"]
    assert "tokens travel unencrypted" in service.log[-2]["event"]


def test_files_that_others_can_read_are_warned_about(
    serve: Callable[..., Service], environment: dict[str, str], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(environment.pop("JWT_SECRET"))
    secret.chmod(0o644)
    environment["HYPEMAN_LIBVIRT_JWT_SECRET_FILE"] = str(secret)
    Path(environment["HYPEMAN_LIBVIRT_REGISTRY"]).touch(0o660)
    Path(environment["HYPEMAN_LIBVIRT_REGISTRY"]).chmod(0o660)
    warned = [line["file"] for line in serve().log if "others on this" in line["event"]]
    assert warned == [str(secret), environment["HYPEMAN_LIBVIRT_REGISTRY"]]


@pytest.mark.parametrize("secret", [None, "", "  "])
def test_no_secret_stops_the_start(environment: dict[str, str], secret: str | None) -> None:
    del environment["JWT_SECRET"]
    if secret is not None:
        environment["JWT_SECRET"] = secret
    status, message = refused(environment)
    assert status == 2
    assert message.startswith("hypeman-libvirt: no JWT secret, and without one anybody could")
    assert not Path(environment["HYPEMAN_LIBVIRT_REGISTRY"]).exists()


def test_auth_off_for_everybody_stops_the_start(environment: dict[str, str]) -> None:
    status, message = refused(environment, "--auth", "off", "--listen", "0.0.0.0:0")
    assert status == 2
    assert "auth = off serves whoever can connect" in message


def test_a_corrupt_registry_stops_the_start(environment: dict[str, str]) -> None:
    registry = Path(environment["HYPEMAN_LIBVIRT_REGISTRY"])
    registry.write_bytes(b"not a database" * 1000)
    status, message = refused(environment)
    assert status == 1
    assert f"registry {registry} cannot be used: its file is not a database" in message
    assert registry.read_bytes() == b"not a database" * 1000


def test_a_test_host_without_its_file_stops_the_start(environment: dict[str, str]) -> None:
    status, message = refused(environment, "--uri", "test:///nonesuch.xml")
    assert status == 2
    assert "no libvirt will ever answer at test:///nonesuch.xml" in message


def test_a_wrong_setting_stops_the_start(environment: dict[str, str]) -> None:
    environment["HYPEMAN_LIBVIRT_THREADS"] = "many"
    status, message = refused(environment)
    assert status == 2
    assert message.startswith("hypeman-libvirt: setting threads: Input should be a valid integer")
