"""What decides over a change is the live host, and the type checker sees to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
from hypeman_libvirt.devices.ports import Host, HostView, Registry
from hypeman_libvirt.devices.snapshot import SnapshotReader

def right(host: Host, registry: Registry) -> SnapshotReader:
    return SnapshotReader(host, registry)

def wrong(view: HostView, registry: Registry) -> SnapshotReader:
    return SnapshotReader(view, registry)
"""


def test_a_change_that_is_decided_on_a_view_of_the_host_does_not_type_check(
    tmp_path: Path,
) -> None:
    empty = tmp_path / "mypy.ini"
    empty.write_text("[mypy]\n")
    arguments = ["--strict", "--config-file", str(empty), "--cache-dir", str(tmp_path / "cache")]
    checked = subprocess.run(  # noqa: S603 - mypy on a program of our own
        [sys.executable, "-m", "mypy", *arguments, "-c", PROGRAM],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in checked.stdout.splitlines() if ": error: " in line]
    expected = 'Argument 1 to "SnapshotReader" has incompatible type "HostView"; expected "Host"'
    assert [line.split("  [")[0] for line in errors] == [f"<string>:9: error: {expected}"]
