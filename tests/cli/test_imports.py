"""Which commands import what: those that must answer at once import click alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

ALLOWED = {"click", "hypeman_libvirt", "__main__"}
_PROGRAM = """
import json, sys
before = set(sys.modules)
sys.argv = ["hypeman-libvirt", *sys.argv[1:]]
from hypeman_libvirt.cli.main import main
try:
    main()
finally:
    tops = {name.partition(".")[0] for name in set(sys.modules) - before}
    foreign = sorted(tops - set(sys.stdlib_module_names))
    print(json.dumps(foreign), file=sys.stderr)
"""


def imported(*arguments: str, **environment: str) -> set[str]:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", _PROGRAM, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["-h"],
        ["devices", "--help"],
        ["serve", "--help"],
        ["doctor", "--help"],
        ["registry", "import", "--help"],
        ["--show-completion", "bash"],
    ],
    ids=" ".join,
)
def test_what_only_explains_imports_click_alone(arguments: list[str]) -> None:
    assert imported(*arguments) <= ALLOWED


def test_completion_imports_click_alone() -> None:
    line = {"COMP_LINE": "hypeman-libvirt devices ", "_HYPEMAN_LIBVIRT_COMPLETE": "bash_complete"}
    assert imported(**line) <= ALLOWED


def test_a_token_needs_no_host_and_no_server() -> None:
    secret = {"JWT_SECRET": "d41d8cd98f00b204e9800998ecf8427e"}
    needed = imported("token", "--user-id", "me", **secret)
    assert "jwt" in needed
    assert needed.isdisjoint({"falcon", "sqlalchemy", "waitress", "alembic", "lxml", "rich"})
