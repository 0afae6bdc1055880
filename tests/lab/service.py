"""The service as a process of its own, and what talks to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from hypeman import Hypeman

from tests.lab.guest import until

SECRET = "a secret of the lab, which lives for minutes"
PATIENCE = 300.0
"""Seconds; emulated in software, libvirt is up to 60 times slower than on a host."""


class Service:
    """A service that answers at a URL, asked as hypeman's clients and curl ask it."""

    def __init__(self, url: str, process: subprocess.Popen[bytes] | None = None) -> None:
        token = make_token()
        self.url = url
        self.process = process
        self.hypeman = Hypeman(base_url=url, api_key=token, timeout=PATIENCE, max_retries=0)
        self.http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE
        )

    def register(self, address: str, name: str) -> Any:  # noqa: ANN401 - the body of an answer
        return self.answer("POST", "/devices", 201, pci_address=address, name=name)

    def get(self, name: str) -> Any:  # noqa: ANN401
        return self.answer("GET", f"/devices/{name}", 200)

    def bind(self, name: str, **body: object) -> Any:  # noqa: ANN401
        return self.answer("POST", f"/devices/{name}/bind", 200, **body)

    def unbind(self, name: str, **body: object) -> Any:  # noqa: ANN401
        return self.answer("POST", f"/devices/{name}/unbind", 200, **body)

    def attach(self, name: str, instance: str, **body: object) -> Any:  # noqa: ANN401
        return self.answer("POST", f"/devices/{name}/attach", 200, instance=instance, **body)

    def detach(self, name: str) -> Any:  # noqa: ANN401
        return self.answer("POST", f"/devices/{name}/detach", 200)

    def refusal(self, method: str, path: str, status: int, **body: object) -> tuple[str, str]:
        """Ask for what must be refused; return the code, and all that it says to people."""
        error = self.answer(method, path, status, **body)
        messages = [error["message"], *(each["message"] for each in error.get("details", ()))]
        return error["code"], "\n".join(messages)

    def answer(self, method: str, path: str, status: int, **body: object) -> Any:  # noqa: ANN401
        response = self.http.request(method, path, json=body or None)
        assert response.status_code == status, f"{method} {path}: {response.text}"
        return response.json() if response.content else None

    def available(self) -> dict[str, dict[str, Any]]:
        """Return what is available, by address."""
        listed = self.answer("GET", "/devices/available", 200)
        return {each["pci_address"]: each for each in listed}

    def preflight(self, path: str) -> tuple[bool, dict[str, str]]:
        """Return whether passthrough would work, and by check what stands in its way."""
        answer = self.answer("GET", path, 200)
        errors = [each for each in answer["checks"] if each["severity"] == "error"]
        return answer["ready"], {each["id"]: each["message"] for each in errors}

    @contextmanager
    def events(self) -> Iterator[Iterator[tuple[str, str]]]:
        """Follow what happens to devices: the type and the address of each event."""
        with self.http.stream("GET", "/devices/events") as response:
            lines = response.iter_lines()
            assert next(lines).startswith(":")
            yield _events_in(lines)

    def forget_all(self) -> None:
        for device in self.hypeman.devices.list():
            self.hypeman.devices.delete(device.id)

    def kill(self) -> None:
        """End its process as a crash does."""
        assert self.process is not None
        self.process.kill()

    def close(self) -> None:
        self.hypeman.close()
        self.http.close()


def _events_in(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Read events; the signs of life between them go on for ever, our patience does not."""
    give_up = time.monotonic() + PATIENCE
    for line in lines:
        assert time.monotonic() < give_up, "the event never came"
        if line.startswith("data:"):
            event = json.loads(line.removeprefix("data:"))
            yield event["type"], event["pci_address"]
            give_up = time.monotonic() + PATIENCE


def make_token() -> str:
    """Sign a token as an operator does."""
    command = [sys.executable, "-m", "hypeman_libvirt.cli.main", "token", "--user-id", "lab"]
    environment = os.environ | {"JWT_SECRET": SECRET}
    return subprocess.check_output(command, env=environment, text=True).strip()  # noqa: S603


@contextmanager
def serving(
    uri: str, directory: Path, registry: Path | None = None, **settings: object
) -> Iterator[Service]:
    """Start the service on a libvirt URI, with settings by name, and stop it in the end.

    Its log is in the directory, and its registry, unless it shares one with another service.
    """
    log = directory / "service.log"
    environment = {f"HYPEMAN_LIBVIRT_{key.upper()}": str(value) for key, value in settings.items()}
    location = str(registry or directory / "devices.db")
    flags = ["--listen", "127.0.0.1:0", "--uri", uri, "--registry", location]
    with log.open("w") as stderr:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "hypeman_libvirt.cli.main", "serve", *flags],
            env=os.environ | environment | {"JWT_SECRET": SECRET},
            stderr=stderr,
        )
    try:
        until(lambda: process.poll() is not None or _url_in(log))
        service = Service(_url_in(log) or log.read_text(), process)
        yield service
        service.close()
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _url_in(log: Path) -> str | None:
    """Return where the service listens, once its log says so."""
    for line in log.read_text().splitlines():
        if '"serving"' in line:
            url: str = json.loads(line)["at"]
            return url
    return None
