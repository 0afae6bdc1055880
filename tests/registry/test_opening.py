from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect

from hypeman_libvirt.registry import RegistryOpenError, SqlRegistry
from hypeman_libvirt.registry.opening import MIGRATIONS, open_engine
from hypeman_libvirt.registry.schema import HEAD, metadata
from tests.capabilities import modes_count
from tests.registry.registrations import L4


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refusal(path: Path) -> str:
    """Open a registry that must be refused and left as it was; return the message."""
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(RegistryOpenError) as refused:
        SqlRegistry(path)
    assert (path.read_bytes() if path.exists() else None) == before
    return refused.value.message


def run_sql(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


@pytest.fixture
def shared(path: Path, tmp_path: Path) -> Iterator[Path]:
    """A registry that may be read and not written."""
    directory = tmp_path / "shared"
    directory.mkdir()
    SqlRegistry(path).close()
    copy = Path(shutil.copy(path, directory / "registry.db"))
    copy.chmod(0o444)
    directory.chmod(0o555)
    yield copy
    directory.chmod(0o755)


def test_directory_and_file_are_made_for_this_user_alone(path: Path) -> None:
    registry = SqlRegistry(path)
    registry.add(L4)
    assert mode(path.parent) == 0o700
    assert {mode(each) for each in path.parent.iterdir()} == {0o600}
    registry.close()


def test_directories_above_it_are_made_too(tmp_path: Path) -> None:
    SqlRegistry(tmp_path / "a" / "b" / "registry.db").close()
    assert (tmp_path / "a" / "b" / "registry.db").is_file()


@pytest.mark.parametrize("name", ["50% #1?.db", "größe.db", "a b.db"])
def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    SqlRegistry(tmp_path / name).close()
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_a_url_of_sqlite_is_a_path(tmp_path: Path) -> None:
    SqlRegistry(f"sqlite:///{tmp_path}/registry.db").close()
    assert (tmp_path / "registry.db").is_file()


def test_an_empty_file_becomes_a_registry(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    registry = SqlRegistry(path)
    registry.add(L4)
    registry.close()


def test_a_power_loss_loses_nothing_answered(path: Path) -> None:
    SqlRegistry(path).close()
    engine = open_engine(str(path))
    with engine.connect() as connection:
        full = 2
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == full
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    engine.dispose()


def tables(connection: Connection) -> dict[str, object]:
    """Describe each table in a form that does not depend on how it was made."""
    found = inspect(connection)
    return {
        table: (
            [{**each, "type": str(each["type"])} for each in found.get_columns(table)],
            found.get_pk_constraint(table)["constrained_columns"],
            sorted(map(str, found.get_unique_constraints(table))),
            sorted(map(str, found.get_indexes(table))),
        )
        for table in sorted(found.get_table_names())
    }


def test_the_migrations_lead_to_the_tables_that_a_new_registry_has(
    path: Path, tmp_path: Path
) -> None:
    migrated = create_engine(f"sqlite:///{tmp_path / 'migrated.db'}")
    with migrated.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, "head")
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        expected = tables(connection)
    new = open_engine(str(path))
    with new.connect() as connection:
        assert tables(connection) == expected
        version = connection.exec_driver_sql("SELECT version_num FROM alembic_version")
        assert version.scalars().all() == [HEAD]
    assert ScriptDirectory(str(MIGRATIONS)).get_heads() == [HEAD]
    migrated.dispose()
    new.dispose()


def test_a_newer_schema_is_refused(path: Path) -> None:
    SqlRegistry(path).close()
    run_sql(path, "UPDATE alembic_version SET version_num = '9999'")
    assert refusal(path) == (
        f"registry {path} was written by a newer hypeman-libvirt (schema 9999); it was left as it "
        "is. Install that version again, or name another place for the registry"
    )


def test_somebody_elses_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    run_sql(path, "CREATE TABLE bookmarks (url TEXT)")
    assert "is the database of something else (it has the table 'bookmarks')" in refusal(path)


def test_what_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("devices:\n" * 1000)
    assert refusal(path) == (
        f"registry {path} cannot be used: its file is not a database; restore a backup. "
        "It was left as it is; to start with an empty one, move it away"
    )


@pytest.mark.parametrize("page", [1, 2, 3])
def test_a_damaged_file_is_refused(path: Path, page: int) -> None:
    SqlRegistry(path).close()
    with path.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xff" * 4096)
    assert "its file is damaged" in refusal(path)


def test_a_truncated_file_is_refused(path: Path) -> None:
    SqlRegistry(path).close()
    os.truncate(path, 8192)
    assert "its file is damaged" in refusal(path)


def test_a_directory_in_place_of_the_file_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(RegistryOpenError, match="is a directory; name a file in it"):
        SqlRegistry(path)


def test_a_file_that_cannot_be_written_is_refused(shared: Path) -> None:
    with modes_count():
        assert "it is read-only; check its owner, its mode" in refusal(shared)


def test_a_directory_that_cannot_be_written_is_refused(shared: Path) -> None:
    shared.chmod(0o666)
    with modes_count():
        assert f"registry {shared} cannot be used: it is read-only" in refusal(shared)


def test_a_directory_that_takes_no_file_is_refused(shared: Path) -> None:
    elsewhere = shared.with_name("other.db")
    with modes_count():
        assert refusal(elsewhere) == (
            f"registry {elsewhere} cannot be created: Permission denied; make its directory "
            "writable for this user, or name another place with --registry"
        )


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hypeman").touch()
    with pytest.raises(RegistryOpenError, match="cannot be created: "):
        SqlRegistry(tmp_path / "hypeman" / "registry.db")


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("://", "cannot be read"),
        ("oracle://user@host/db", "cannot be kept in oracle; use one of: sqlite, postgresql"),
        ("postgresql+nonesuch://user@host/db", "driver postgresql+nonesuch is not installed"),
    ],
)
def test_a_location_that_cannot_be_is_refused(location: str, told: str) -> None:
    with pytest.raises(RegistryOpenError, match=told.replace("+", r"\+")):
        SqlRegistry(location)


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """The migrations of a release to come, which adds a column."""
    directory = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, directory, ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "versions" / "v9999_owner.py").write_text(
        "import sqlalchemy as sa\n"
        "from alembic import op\n"
        "revision = '9999'\n"
        f"down_revision = '{HEAD}'\n"
        "def upgrade():\n"
        "    op.add_column('registrations', sa.Column('owner', sa.String(64)))\n"
    )
    return directory


def column_names(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[1] for row in connection.execute("PRAGMA table_info(registrations)")}


def test_an_older_schema_is_brought_up_after_a_copy(path: Path, next_release: Path) -> None:
    old = SqlRegistry(path)
    old.add(L4)
    old.close()
    open_engine(str(path), migrations=next_release, head="9999")
    assert "owner" in column_names(path)
    copy = path.with_name(f"registry.db.schema-{HEAD}")
    assert mode(copy) == 0o600
    kept = SqlRegistry(copy)
    assert kept.find(L4.host, L4.id) == L4
    kept.close()


def test_a_schema_change_that_fails_changes_nothing(path: Path, next_release: Path) -> None:
    SqlRegistry(path).close()
    broken = next_release / "versions" / "v9999_owner.py"
    broken.write_text(broken.read_text() + "    op.drop_column('registrations', 'nonesuch')\n")
    with pytest.raises(RegistryOpenError):
        open_engine(str(path), migrations=next_release, head="9999")
    assert "owner" not in column_names(path)
    SqlRegistry(path).close()


@pytest.mark.parametrize("first", [True, False])
def test_a_start_that_needs_no_migration_does_not_load_alembic(path: Path, *, first: bool) -> None:
    if not first:
        SqlRegistry(path).close()
    script = (
        "import sys; from hypeman_libvirt.registry import SqlRegistry; "
        "SqlRegistry(sys.argv[1]).ping(); sys.exit('alembic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, path], check=True)  # noqa: S603  # our own
