"""contrib/quickstart: what it prints can be pasted, and only its own service answers it."""

from __future__ import annotations

import os
import re
import runpy
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.api.client import token
from tests.api.demo_service import demo_service
from tests.docs.console import run_to_its_end

QUICKSTART = Path(__file__).parents[2] / "contrib" / "quickstart"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A service on the demo host."""
    with demo_service(tmp_path) as url:
        yield url


@pytest.fixture(scope="module")
def quickstart() -> dict[str, Any]:
    return runpy.run_path(str(QUICKSTART))


class SaysYes(BaseHTTPRequestHandler):
    """Answers 200 to everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


@pytest.fixture(params=["silent", "says yes"])
def taken(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port that somebody else serves on."""
    if request.param == "silent":
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server.getsockname()[1]
        return
    with HTTPServer(("127.0.0.1", 0), SaysYes) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield http.server_port
        http.shutdown()
        thread.join()


def test_a_port_that_is_in_use_is_one_sentence(taken: int) -> None:
    done = subprocess.run(  # noqa: S603  # our own script
        [sys.executable, QUICKSTART, "--once", "--port", str(taken)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"Port {taken} of 127.0.0.1 cannot be served on (Address already in use): "
        "choose another one with --port N\n"
    )


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_what_is_no_port_is_refused(port: str) -> None:
    done = subprocess.run(  # noqa: S603  # our own script
        [sys.executable, QUICKSTART, "--port", port], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"invalid port value: '{port}'" in done.stderr


def test_a_service_that_ends_is_not_waited_for(quickstart: dict[str, Any]) -> None:
    with (
        pytest.raises(SystemExit, match="did not start"),
        quickstart["serving"]([sys.executable, "-c", ""], os.environ),
    ):
        pytest.fail("it never listened")


def test_a_service_is_there_when_it_says_so_itself_and_ends_with_us(
    quickstart: dict[str, Any],
) -> None:
    code = (
        "import os, signal, socket\n"
        "address = os.environ['NOTIFY_SOCKET'].replace('@', chr(0), 1)\n"
        "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', address)\n"
        "signal.pause()"
    )
    with quickstart["serving"]([sys.executable, "-c", code], os.environ) as service:
        assert service.poll() is None
    assert service.returncode != 0


@pytest.mark.testdriver
@pytest.mark.parametrize("has_curl", [True, False])
def test_what_it_says_to_try_next_can_be_pasted(
    quickstart: dict[str, Any], url: str, tmp_path: Path, *, has_curl: bool
) -> None:
    text = quickstart["what_next"](url, token(), "l4-gpu", has_curl=has_curl)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    commands = text.partition("\n\n")[2].replace(str(QUICKSTART.parents[1]), str(tmp_path))
    register = "hypeman-libvirt devices register 0000:a2:00.0 --name l4-gpu\n"
    before, variables, after = re.split(r"(?<=\n)(export HYPEMAN_API_KEY=.*\n)", commands)
    script = f"set -e\n{before}{variables}{register}{after}echo all"
    environment = {"PATH": os.defpath, "PYTHONPATH": str(QUICKSTART.parents[1])}
    printed = run_to_its_end(script, tmp_path, environment)
    assert printed.count("l4-gpu") >= 4, printed
    assert printed.endswith("all\n")
