"""What ``--base-url`` takes, and that each of it is reached."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from hypeman_libvirt.cli.api_client import ApiClient
from hypeman_libvirt.endpoint import Endpoint, WrongBaseUrlError, read_base_url


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("http://127.0.0.1:8080", Endpoint("http", "127.0.0.1", 8080, "")),
        ("https://host.example/api/v1/", Endpoint("https", "host.example", None, "/api/v1")),
        ("localhost:18080", Endpoint("http", "localhost", 18080, "")),
        ("127.0.0.1:1", Endpoint("http", "127.0.0.1", 1, "")),
        ("[::1]:8080", Endpoint("http", "::1", 8080, "")),
        ("gpu-host", Endpoint("http", "gpu-host", None, "")),
        ("host:80/v1", Endpoint("http", "host", 80, "/v1")),
        ("unix:/run/hypeman.sock", Endpoint("unix", "localhost", None, "/run/hypeman.sock")),
        ("unix:///run/hypeman.sock", Endpoint("unix", "localhost", None, "/run/hypeman.sock")),
    ],
)
def test_a_place_is_read(text: str, endpoint: Endpoint) -> None:
    assert read_base_url(text) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://host",
        "http://",
        "http://[x/",
        "http://host:port",
        "http://host:99999999",
        "http://host/?q=1",
        "http://user:password@host",
        "http://ho\x1bst",
        "unix:run/x",
        "unix:",
        "/run/hypeman.sock",
        "host name:80",
    ],
)
def test_what_is_no_place_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(WrongBaseUrlError, match="write "):
        read_base_url(text)


class Answers(BaseHTTPRequestHandler):
    """Says which path was asked for."""

    def do_GET(self) -> None:
        body = json.dumps({"path": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "client"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def unix_server(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "s")
    with socketserver.UnixStreamServer(path, Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def test_a_unix_socket_is_asked(unix_server: str) -> None:
    assert ApiClient(f"unix:{unix_server}", None).get("/devices") == {"path": "/devices"}


def test_a_place_without_a_scheme_is_asked_below_its_path() -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        port = server.socket.getsockname()[1]
        assert ApiClient(f"localhost:{port}/v1", None).get("/devices") == {"path": "/v1/devices"}
        server.shutdown()
        thread.join()


def test_a_server_that_never_answers_ends_in_a_sentence() -> None:
    from hypeman_libvirt.cli.api_client import UnreachableError  # noqa: PLC0415

    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = ApiClient(f"127.0.0.1:{silent.getsockname()[1]}", None, timeout=0.05)
        with pytest.raises(UnreachableError, match=r"it said nothing for 0\.05 seconds"):
            api.get("/devices")
