"""A registry that any release has written opens in this one, and loses nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from hypeman_libvirt.registry import SqlRegistry
from hypeman_libvirt.registry.opening import MIGRATIONS
from tests.registry.registrations import L4, nth

RELEASED = Path(__file__).parents[1] / "data" / "registries"
BARE = nth(
    1, created_by=None, class_code=None, serial=None, iommu_group=None, host_driver=None, tags={}
)


@pytest.mark.parametrize("dump", sorted(RELEASED.glob("*.sql")), ids=lambda dump: dump.stem)
def test_a_registry_of_any_release_opens(dump: Path, path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(dump.read_text())
    registry = SqlRegistry(path)
    assert registry.list_registrations(L4.host, {}) == [BARE, L4]
    registry.add(nth(2))
    assert registry.find(L4.host, "name-2") == nth(2)
    registry.close()


def test_every_schema_has_a_registry_of_its_release() -> None:
    revisions = {each.revision for each in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}
    assert {dump.stem for dump in RELEASED.glob("*.sql")} == revisions
