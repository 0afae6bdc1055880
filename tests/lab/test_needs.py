"""Where the lab cannot run, it says what is missing, and its tests are skipped with that reason.

These tests boot nothing and run on every level.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[2]
NO_QEMU = "qemu-system-x86_64 is not here: apt-get install qemu-system-x86"
NO_ROOT = "the lab needs root"


def python(*arguments: str, **environment: str) -> str:
    """Run Python where no tool is installed, and return what it prints."""
    result = subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT / "contrib/lab"), "PATH": "/nowhere", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_tests_of_the_lab_are_skipped_and_say_why(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    suite = ("-m", "pytest", "-m", "smoke", "-p", "no:cacheprovider", "tests/lab")
    assert NO_QEMU in python(*suite, f"--junitxml={report}")
    skips = [each.get("message", "") for each in ET.parse(report).iter("skipped")]  # noqa: S314
    assert len(skips) == len(list(ET.parse(report).iter("testcase"))) > 0  # noqa: S314
    assert all(NO_QEMU in each for each in skips)


def test_without_root_it_says_so() -> None:
    said = python("-c", "import hypeman_lab; print(hypeman_lab.missing(user=1000))")
    assert NO_ROOT in said
    assert NO_QEMU in said


def test_with_root_it_does_not_ask_for_it() -> None:
    assert NO_ROOT not in python("-c", "import hypeman_lab; print(hypeman_lab.missing(user=0))")
