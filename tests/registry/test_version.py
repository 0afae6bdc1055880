from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from hypeman_libvirt.registry import SqlRegistry
from hypeman_libvirt.registry.opening import open_engine
from hypeman_libvirt.registry.sqlite import LOCK_TIMEOUT, Version
from tests.registry.registrations import L4, nth

MUCH_LATER = 2**62


@pytest.fixture
def engine(path: Path, registry: SqlRegistry) -> Iterator[Engine]:
    registry.add(L4)
    opened = open_engine(str(path), LOCK_TIMEOUT)
    yield opened
    opened.dispose()


@pytest.fixture
def log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def add_unnoticed(registry: SqlRegistry, log: Path) -> None:
    """Add a registration so that the log's time and size are what they were."""
    before = log.stat()
    registry.add(nth(1))
    os.truncate(log, before.st_size)
    os.utime(log, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_every_commit_of_anybody_changes_the_version(registry: SqlRegistry, engine: Engine) -> None:
    version = Version(engine, lambda: MUCH_LATER)
    before = version.read()
    assert before is not None
    assert version.read() == before
    registry.add(nth(1))
    added = version.read()
    registry.remove(L4.host, L4.id)
    assert len({before, added, version.read()}) == 3
    version.close()


def test_sqlite_is_not_asked_while_the_log_stands(
    registry: SqlRegistry, engine: Engine, log: Path
) -> None:
    version = Version(engine, lambda: MUCH_LATER)
    version.read()
    before = version.read()
    add_unnoticed(registry, log)
    assert version.read() == before
    version.close()


def test_sqlite_is_asked_while_the_next_write_may_leave_the_same_time(
    registry: SqlRegistry, engine: Engine, log: Path
) -> None:
    version = Version(engine, lambda: log.stat().st_mtime_ns + 1)
    version.read()
    before = version.read()
    add_unnoticed(registry, log)
    assert version.read() != before
    version.close()


def test_a_version_of_a_new_connection_is_another_one(engine: Engine) -> None:
    version = Version(engine, lambda: MUCH_LATER)
    before = version.read()
    version.close()
    assert version.read() not in {None, before}
    version.close()
