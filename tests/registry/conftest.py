"""A registry in a file of its own, and registrations to put into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hypeman_libvirt.registry import SqlRegistry


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hypeman" / "registry.db"


@pytest.fixture
def registry(path: Path) -> Iterator[SqlRegistry]:
    opened = SqlRegistry(path)
    yield opened
    opened.close()
