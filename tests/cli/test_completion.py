"""What TAB proposes, asked as bash asks, and what bash makes of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Final

import pytest

HOSTILE: Final = "\x1b]0;OWNED\x07"
ANSWERS: Final = {
    "/devices": [
        {"name": "l4-gpu", "pci_address": "0000:a2:00.0"},
        {"name": "l40s", "pci_address": "0000:41:00.0"},
        {"name": "$(touch owned)", "pci_address": "0000:42:00.0"},
        {"name": HOSTILE, "pci_address": "0000:43:00.0"},
    ],
    "/devices/available": [
        {"pci_address": "0000:a2:00.0", "device_id": "27b8", "registered_as": "l4-gpu"},
        {"pci_address": "0000:3b:00.0", "device_id": "101d", "registered_as": None},
        {"pci_address": "0000:3b:00.1", "device_id": "101d", "registered_as": None},
    ],
    "/resources": {
        "allocations": [{"instance_name": "training", "instance_id": "i-1"}],
        "instances": [
            {"instance_name": "training", "instance_id": "i-1", "state": "running"},
            {"instance_name": "tuning", "instance_id": "i-2", "state": "shut off"},
        ],
    },
    "/iommu-groups": [{"iommu_group": 25, "members": [{"pci_address": "0000:41:00.0"}]}],
}


class Service(BaseHTTPRequestHandler):
    """Answers whoever has the token."""

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == "Bearer key"
        body = json.dumps(ANSWERS.get(self.path) if known else {"code": "unauthorized"}).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def complete(line: str, base_url: str, key: str = "key") -> list[str]:
    environment = {
        "COMP_LINE": line,
        "_HYPEMAN_LIBVIRT_COMPLETE": "bash_complete",
        "HYPEMAN_BASE_URL": base_url,
        "HYPEMAN_API_KEY": key,
    }
    done = subprocess.run(
        [sys.executable, "-m", "hypeman_libvirt"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return [each.partition(",")[2] for each in done.stdout.splitlines() if each]


@pytest.mark.parametrize(
    ("line", "proposed"),
    [
        ("hypeman-libvirt d", ["devices", "doctor"]),
        ("hypeman-libvirt devices re", ["register", "rename"]),
        ("hypeman-libvirt devices bind l4", ["l4-gpu", "l40s"]),
        ("hypeman-libvirt device rm l4-", ["l4-gpu"]),
        ("hypeman-libvirt devices register ", ["0000:3b:00.0", "0000:3b:00.1"]),
        ("hypeman-libvirt devices register --pci-address 0000:3b:00.1", ["0000:3b:00.1"]),
        ("hypeman-libvirt devices preflight 0000", ["0000:3b:00.0", "0000:3b:00.1"]),
        ("hypeman-libvirt devices attach l4-gpu ", ["training", "tuning"]),
        ("hypeman-libvirt devices groups ", ["25"]),
        ("hypeman-libvirt devices bind l4-gpu --scope ", ["device", "group"]),
    ],
)
def test_tab_proposes(line: str, proposed: list[str], base_url: str) -> None:
    assert complete(line, base_url) == proposed


def test_a_name_that_would_move_the_cursor_is_not_proposed(base_url: str) -> None:
    assert complete("hypeman-libvirt devices get ", base_url) == [
        "l4-gpu",
        "l40s",
        "$(touch owned)",
    ]


@pytest.mark.parametrize(
    ("url", "key"), [("127.0.0.1:1", "key"), ("ftp://x", "key"), ("unix:/nonesuch", "key")]
)
def test_tab_is_silent_where_nobody_answers(url: str, key: str) -> None:
    assert complete("hypeman-libvirt devices get ", url, key) == []


def test_tab_is_silent_where_the_service_refuses(base_url: str) -> None:
    assert complete("hypeman-libvirt devices get ", base_url, "another") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell: str) -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "hypeman_libvirt", "--show-completion", shell],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_HYPEMAN_LIBVIRT_COMPLETE" in done.stdout
    program = shutil.which(shell)
    if program:
        subprocess.run([program, "-n"], input=done.stdout, text=True, check=True)  # noqa: S603


def test_the_shell_is_taken_from_the_environment_or_asked_for() -> None:
    def ask(shell: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hypeman_libvirt", "--show-completion"],
            env=os.environ | {"SHELL": shell},
            capture_output=True,
            text=True,
            check=False,
        )

    assert "compdef" in ask("/usr/bin/zsh").stdout
    refused = ask("/bin/csh")
    assert refused.returncode == 2
    assert "'csh' is none of bash, zsh, fish" in refused.stderr


BASH: Final = """
hypeman-libvirt() { "$PYTHON" -m hypeman_libvirt "$@"; }
eval "$("$PYTHON" -m hypeman_libvirt --show-completion bash)"
COMP_LINE="$LINE" COMP_POINT=${#LINE}
_hypeman_libvirt_completion "$WRAPPER"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("hypeman-libvirt devices get l4-", ["l4-gpu"]),
        ("hypeman-libvirt devices register 0000:3b:0", ["00.0", "00.1"]),
        ("hypeman-libvirt devices get $", ["$(touch owned)"]),
    ],
)
def test_bash_itself_gets_words_with_colons_and_runs_nothing(
    line: str, replies: list[str], base_url: str, tmp_path: Path
) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on this machine")
    wrapper = tmp_path / "hypeman-libvirt"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hypeman_libvirt "$@"\n')
    wrapper.chmod(0o755)
    settings = {
        "PYTHON": sys.executable,
        "LINE": line,
        "WRAPPER": str(wrapper),
        "HYPEMAN_BASE_URL": base_url,
        "HYPEMAN_API_KEY": "key",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(  # noqa: S603
        [bash, "--norc", "-c", BASH],
        env=os.environ | settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == replies
    assert not (tmp_path / "owned").exists()
