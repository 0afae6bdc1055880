"""The app under gunicorn: several workers are one service."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.api.client import SECRET, bearer
from tests.api.document import ROOT

pytestmark = pytest.mark.testdriver

EXAMPLE = ROOT / "contrib" / "examples" / "serve_on_gunicorn.py"
GPU = "0000:a2:00.0"
ROUNDS = 5
CLIENTS = 8
COUNT = (
    r"http_request_duration_seconds_count"
    r'\{method="GET",route="/devices/\{reference\}",status="404"\} (\S+)'
)


@dataclass
class Served:
    """Workers that answer, and the file of their log."""

    client: httpx.Client
    log: Path

    def send(self, method: str, path: str, body: object = None) -> int:
        """Send a request on a connection of its own, so that any worker may take it."""
        headers = bearer() | {"Connection": "close"}
        return self.client.request(method, path, json=body, headers=headers).status_code

    def send_at_once(self, *requests: tuple[str, str, object]) -> list[int]:
        with ThreadPoolExecutor(len(requests)) as pool:
            return sorted(pool.map(lambda each: self.send(*each), requests))

    def lines(self, event: str) -> list[dict[str, object]]:
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [entry for entry in map(json.loads, lines) if entry["event"] == event]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "JWT_SECRET": SECRET,
        "PYTHONPATH": str(ROOT),
        "HYPEMAN_LIBVIRT_LISTEN": address,
        "HYPEMAN_LIBVIRT_REGISTRY": str(tmp_path / "registry.db"),
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
    }
    (tmp_path / "metrics").mkdir()
    command = [sys.executable, "-m", "gunicorn", "--config", str(EXAMPLE)]
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=environment, stderr=stream)  # noqa: S603  # ours
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=300.0) as client:
            wait_until_healthy(client, process)
            yield Served(client, log)
    finally:
        process.terminate()
        status = process.wait(300)
    assert status == 0


def wait_until_healthy(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("gunicorn ended")


def test_several_workers_register_a_device_once(served: Served) -> None:
    for number in range(ROUNDS):
        register = [
            ("POST", "/devices", {"pci_address": GPU, "name": f"l4-{each}", "bind": "device"})
            for each in range(CLIENTS)
        ]
        assert served.send_at_once(*register) == [201] + [409] * (CLIENTS - 1), number
        (device,) = served.client.get("/devices", headers=bearer()).json()
        path = f"/devices/{device['name']}"
        assert {served.send("GET", path) for _ in range(CLIENTS)} == {200}
        delete = [("DELETE", path, None)] * CLIENTS
        assert served.send_at_once(*delete).count(204) == 1
    assert served.send("GET", "/devices") == 200


def test_every_request_is_in_one_log_and_in_one_count(served: Served) -> None:
    assert {served.send("GET", "/devices/nobody") for _ in range(CLIENTS)} == {404}
    requests = [each for each in served.lines("request") if each["path"] == "/devices/nobody"]
    assert [each["client"] for each in requests] == ["127.0.0.1"] * CLIENTS
    scrape = served.client.get("/metrics", headers=bearer()).text
    assert re.findall(COUNT, scrape) == [f"{CLIENTS}.0"]
    assert "hypeman_libvirt_up" in scrape
