"""The fleet on one machine, and the session of the paper about fleets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import pytest
from hypeman_fleet.local import local_fleet
from hypeman_fleet.postgres import Postgres

from tests.docs.console import read_steps, run, sections

pytestmark = [pytest.mark.fleet, pytest.mark.testdriver]
ROOT: Final = Path(__file__).parents[2]


def test_the_session_of_the_paper_happens(postgres: Postgres, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    paper = (ROOT / "contrib" / "docs" / "fleet.md").read_text()
    steps = list(read_steps(sections(paper)["A session with a fleet"]))
    assert len(steps) > 10
    with local_fleet(postgres, tmp_path, ["alpha", "beta"]) as fleet:
        environment = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HYPEMAN_API_KEY": fleet.token,
        }
        run(steps, fleet.port, tmp_path, environment)


@pytest.mark.usefixtures("postgres")  # skips where there is none
def test_one_command_runs_a_fleet_and_ends_it() -> None:
    before = leftovers()
    command = [sys.executable, str(ROOT / "contrib" / "fleet" / "demo"), "--port", "0"]
    done = subprocess.run(  # noqa: S603 - ours
        [*command, "hypeman-libvirt", "devices", "available", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"host": "beta"') == done.stdout.count('"host": "alpha"') > 0
    assert leftovers() == before


def leftovers() -> set[Path]:
    """Return what fleets have in the directory of temporary files."""
    return {*Path(tempfile.gettempdir()).glob("hypeman-*")}
