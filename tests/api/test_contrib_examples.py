"""The programs in contrib/examples do what they say."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from falcon.testing import TestClient
from hypeman import Hypeman

from hypeman_libvirt.rest.auth import BearerAuth
from tests.api.client import SECRET, Api, code_of, token
from tests.api.document import ROOT

pytestmark = pytest.mark.testdriver

EXAMPLES = ROOT / "contrib" / "examples"


def test_the_control_plane_keeps_its_route_and_has_ours(tmp_path: Path) -> None:
    from hypeman_libvirt import Settings, create_service  # noqa: PLC0415  # needs libvirt

    settings = Settings(registry=str(tmp_path / "registry.db"))
    example = runpy.run_path(str(EXAMPLES / "mount_into_falcon.py"))
    with closing(create_service(settings)) as service:
        app = example["create_control_plane"](service, BearerAuth(SECRET))
        assert TestClient(app).simulate_get("/").text == "the control plane"
        assert TestClient(app).simulate_get("/devices").status_code == 404
        api = Api(app, prefix="/v1")
        assert api.post("/devices", {"pci_address": "0000:a2:00.0"}).status_code == 201
        assert code_of(api.get("/devices", headers={})) == (401, "unauthorized")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The waitress example as a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {
        "JWT_SECRET": SECRET,
        "PYTHONPATH": str(ROOT),
        "HYPEMAN_LIBVIRT_LISTEN": f"127.0.0.1:{port}",
        "HYPEMAN_LIBVIRT_REGISTRY": str(tmp_path / "registry.db"),
    }
    command = [sys.executable, str(EXAMPLES / "serve_on_waitress.py")]
    with subprocess.Popen(command, env=environment) as process:  # noqa: S603  # ours
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def wait_until_healthy(url: str) -> None:
    for _ in range(3000):
        try:
            urlopen(Request(url + "/health")).close()  # noqa: S310  # a loopback address
        except URLError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the example does not answer")


def test_any_wsgi_server_serves_the_app(served: str) -> None:
    wait_until_healthy(served)
    with Hypeman(base_url=served, api_key=token()) as client:
        client.devices.create(pci_address="0000:a2:00.0", name="l4-gpu")
        assert [each.name for each in client.devices.list()] == ["l4-gpu"]
