from __future__ import annotations

import os
from pathlib import Path

import pytest

from hypeman_libvirt.file_access import explain_denial, is_there
from tests.capabilities import modes_count


def test_a_closed_file_is_named_with_owner_and_mode(tmp_path: Path) -> None:
    file = tmp_path / "jwt-secret"
    file.touch(0o600)
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(file, 0, 0)
    whose = "which belongs to root:root (mode 0600)"
    told = explain_denial(file)
    assert told == f"this user may not open {file}, {whose}; run the command with sudo"


def test_a_group_that_may_read_is_a_way(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    file = tmp_path / "jwt-secret"
    file.touch()
    file.chmod(0o640)
    os.chown(file, 12345, 54321)
    told = explain_denial(file)
    assert "belongs to 12345:54321 (mode 0640)" in told
    assert told.endswith("run the command with sudo, or as 12345, or join the group 54321")


def test_a_file_that_is_gone_meanwhile_is_explained(tmp_path: Path) -> None:
    told = explain_denial(tmp_path / "gone")
    assert told == f"this user may not open {tmp_path / 'gone'}; run the command with sudo"


def test_whether_a_file_is_there(tmp_path: Path) -> None:
    assert is_there(tmp_path)
    assert not is_there(tmp_path / "nonesuch")
    assert not is_there(tmp_path / "nonesuch" / "file")


def test_a_closed_directory_is_what_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0)
    with modes_count():
        told = explain_denial(closed / "file")
    assert told.startswith(f"this user may not open {closed / 'file'}, because {closed} belongs to")
    assert "(mode 0000)" in told
