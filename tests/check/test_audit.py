"""contrib/audit: what it counts, and that knowing nothing is no success."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CLEAN = {"name": "falcon", "version": "4.1", "vulns": []}
BAD = {"name": "lxml", "version": "5.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["5.1"]}]}
SKIPPED = {"name": "rich", "skip_reason": "rich was not found on PyPI"}
OURS = {"name": "hypeman-libvirt", "skip_reason": "distribution marked as editable"}


def audit(directory: Path, *arguments: str, printed: str) -> subprocess.CompletedProcess[str]:
    """Run it where bandit is content and pip-audit prints this."""
    (directory / "bandit.py").touch()
    (directory / "pip_audit.py").write_text(
        f"import sys; print({printed!r}); print('no way to pypi.org', file=sys.stderr)"
    )
    return subprocess.run(  # noqa: S603  # our own arguments
        [sys.executable, ROOT / "contrib/audit", *arguments],
        env={"PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        check=False,
    )


def dependencies(*each: dict[str, Any]) -> str:
    return json.dumps({"dependencies": each})


def test_what_was_skipped_is_not_counted_as_audited(tmp_path: Path) -> None:
    done = audit(tmp_path, printed=dependencies(CLEAN, SKIPPED, OURS))
    assert done.stdout.splitlines() == [
        "1 dependencies audited, 0 vulnerable, 1 skipped",
        "skipped: rich was not found on PyPI",
    ]
    assert done.returncode == 0


def test_a_vulnerability_fails(tmp_path: Path) -> None:
    done = audit(tmp_path, "--where-possible", printed=dependencies(CLEAN, BAD))
    assert "lxml 5.0: PYSEC-1, mended in 5.1" in done.stdout
    assert "2 dependencies audited, 1 vulnerable, 0 skipped" in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        (dependencies(SKIPPED, SKIPPED), "rich was not found on PyPI"),
        (dependencies(OURS), "pip-audit has seen no dependency"),
        ("", "no way to pypi.org"),
    ],
)
def test_where_nothing_was_audited_it_fails_and_says_why(
    printed: str, reason: str, tmp_path: Path
) -> None:
    done = audit(tmp_path, printed=printed)
    assert "0 dependencies audited" in done.stdout
    assert "failed: no dependency was audited" in done.stdout
    assert reason in done.stdout
    assert done.returncode == 1


def test_contrib_check_has_it_left_out_there(tmp_path: Path) -> None:
    done = audit(tmp_path, "--where-possible", printed=dependencies(SKIPPED))
    assert "\nskipped: no dependency was audited" in done.stdout
    assert done.returncode == 0
