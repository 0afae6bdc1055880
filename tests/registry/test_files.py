"""Files that somebody replaces or deletes under a registry that is open."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from hypeman_libvirt.devices.errors import RegistryUnavailableError
from hypeman_libvirt.registry import SqlRegistry
from hypeman_libvirt.registry.checkpoints import LONG_LOG, mark
from tests.registry.registrations import L4, nth
from tests.registry.test_sql import disk_that_takes_no_more_than

A_WHILE = 10.0
READS: list[Callable[[SqlRegistry], object]] = [
    lambda registry: registry.list_registrations(L4.host, {}),
    lambda registry: registry.find(L4.host, "l4-gpu"),
    lambda registry: registry.find(L4.host, "nobody"),
    lambda registry: registry.find_by_device(L4.host, L4.pci_address),
    lambda registry: registry.list_all(),
    lambda registry: registry.ping(),
]
WRITES: list[Callable[[SqlRegistry], object]] = [
    lambda registry: registry.add(nth(7)),
    lambda registry: registry.remove(L4.host, L4.id),
    lambda registry: registry.check_writable(),
    lambda registry: registry.note_host_driver(L4.host, L4.pci_address, "nvidia"),
]
CALLS = READS + WRITES


@pytest.fixture
def used(registry: SqlRegistry) -> SqlRegistry:
    """A registry with a registration that it has answered for in every way."""
    registry.add(L4)
    for read in READS:
        read(registry)
    return registry


def replace_by_another(path: Path) -> None:
    """Put a valid database in the registry's place, as a restored backup is."""
    other = path.with_name("other.db")
    with closing(SqlRegistry(other)) as registry:
        registry.add(nth(1))
    other.replace(path)


def overwrite_by_another(path: Path) -> None:
    """Write a valid database into the registry's file, as ``cp backup.db registry.db`` does."""
    other = path.with_name("other.db")
    with closing(SqlRegistry(other)) as registry:
        registry.add(nth(1))
    inode = path.stat().st_ino
    path.write_bytes(other.read_bytes())
    assert path.stat().st_ino == inode
    other.unlink()


def delete(*endings: str) -> Callable[[Path], None]:
    def delete_them(path: Path) -> None:
        for ending in endings:
            path.with_name(path.name + ending).unlink()

    return delete_them


def names_in(path: Path) -> list[str]:
    with closing(SqlRegistry(path)) as registry:
        return [each.name for each in registry.list_all()]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (replace_by_another, "its file was replaced"),
        (delete("-wal", "-shm"), "its -wal or -shm file was deleted"),
        (delete("-wal"), "its -wal or -shm file was deleted"),
        (delete("-shm"), "its -wal or -shm file was deleted"),
    ],
)
def test_whatever_is_asked_first_is_refused_and_all_after_it(
    path: Path,
    used: SqlRegistry,
    harm: Callable[[Path], None],
    what: str,
    call: Callable[[SqlRegistry], object],
) -> None:
    harm(path)
    for each in (call, *CALLS):
        with pytest.raises(RegistryUnavailableError, match=what) as refused:
            each(used)
        assert "start it again" in refused.value.message
    assert names_in(path.with_name("registry.db.saved-1")) == ["l4-gpu"]
    assert path.with_name("registry.db.saved-1").stat().st_mode & 0o777 == 0o600
    assert not path.with_name("registry.db.saved-2").exists()


@pytest.mark.parametrize("call", CALLS)
def test_the_first_refusal_already_says_where_the_copy_is(
    path: Path, registry: SqlRegistry, call: Callable[[SqlRegistry], object]
) -> None:
    registry.add(L4)
    replace_by_another(path)
    with pytest.raises(RegistryUnavailableError, match=r"What it held is in .*saved-1\."):
        call(registry)


def test_after_a_restart_the_new_file_is_what_it_was(path: Path, used: SqlRegistry) -> None:
    replace_by_another(path)
    with pytest.raises(RegistryUnavailableError, match="What it held is in"):
        used.ping()
    used.close()
    assert names_in(path) == ["name-1"]  # and not mixed with the log of the old one


@pytest.mark.parametrize("call", CALLS)
def test_a_file_overwritten_in_place_is_refused_with_the_cure(
    path: Path, used: SqlRegistry, call: Callable[[SqlRegistry], object]
) -> None:
    overwrite_by_another(path)
    for each in (call, *CALLS):
        with pytest.raises(RegistryUnavailableError, match="its file was overwritten") as refused:
            each(used)
        assert "Stop the service" in refused.value.message
        assert "start it again" in refused.value.message
    used.close()
    assert names_in(path) == ["name-1"]  # and not mixed with the log of what was there


def test_a_file_overwritten_unnoticed_is_not_mixed_with_the_log_at_the_end(
    path: Path, used: SqlRegistry
) -> None:
    overwrite_by_another(path)
    mode = path.stat().st_mode
    used.close()
    assert names_in(path) == ["name-1"]
    assert path.stat().st_mode == mode
    assert {each.name for each in path.parent.iterdir()} == {"registry.db"}


def test_a_file_overwritten_with_rubbish_is_refused(path: Path, used: SqlRegistry) -> None:
    path.write_bytes(b"rubbish")
    with pytest.raises(RegistryUnavailableError, match="its file was overwritten"):
        used.find(L4.host, "l4-gpu")
    used.close()
    assert path.read_bytes() == b"rubbish"


def test_the_log_stays_short_and_its_checkpoints_are_none_of_others(
    path: Path, used: SqlRegistry
) -> None:
    log = path.with_name("registry.db-wal")
    before = path.stat().st_size
    long = {f"tag-{number}": "v" * 256 for number in range(50)}
    with closing(SqlRegistry(path)) as other:
        other.ping()
        for number in range(400):
            (used, other)[number % 2].add(nth(number, tags=long))
            assert log.stat().st_size < 2 * LONG_LOG
            for each in (used, other):  # neither takes the other's checkpoints for damage
                assert each.find(L4.host, f"name-{number}") is not None
        assert path.stat().st_size > before + LONG_LOG
        assert len(other.list_all()) == len(used.list_all()) == 401


def test_a_checkpoint_of_another_process_is_awaited(path: Path, used: SqlRegistry) -> None:
    """Whoever holds the directory locked may be about to mark what it has written."""
    holder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        read: list[object] = []
        reader = threading.Thread(target=lambda: read.append(used.find(L4.host, "l4-gpu")))
        reader.start()
        status = path.stat()
        other.execute(f"PRAGMA user_version = {mark((status.st_size, status.st_mtime_ns))}")
    os.close(holder)
    reader.join(A_WHILE)
    assert read == [L4]


def test_a_log_that_was_deleted_costs_no_registration(path: Path, used: SqlRegistry) -> None:
    delete("-wal", "-shm")(path)
    with pytest.raises(RegistryUnavailableError):
        used.add(nth(1))
    used.close()
    assert names_in(path) == ["l4-gpu"]


@contextmanager
def at_each_insert(harm: Callable[[], None]) -> Iterator[None]:
    def listen(_c: object, _cursor: object, statement: str, *_: Any) -> None:  # noqa: ANN401
        if statement.startswith("INSERT"):
            harm()

    event.listen(Engine, "before_cursor_execute", listen)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", listen)


@pytest.mark.parametrize("harm", [replace_by_another, delete("-wal", "-shm")])
def test_what_is_committed_into_a_file_that_is_gone_is_not_answered(
    path: Path, used: SqlRegistry, harm: Callable[[Path], None]
) -> None:
    harmed: list[bool] = []

    def once() -> None:
        if not harmed:
            harmed.append(True)
            harm(path)

    with at_each_insert(once), pytest.raises(RegistryUnavailableError, match="cannot be used"):
        used.add(nth(2))


def test_a_registry_that_is_away_for_a_while_is_as_before(
    path: Path, used: SqlRegistry, tmp_path: Path
) -> None:
    away = tmp_path / "away"
    path.parent.rename(away)
    for call in CALLS:
        with pytest.raises(RegistryUnavailableError, match="cannot be opened"):
            call(used)
    away.rename(path.parent)
    used.add(nth(1))
    assert {each.name for each in used.list_all()} == {"l4-gpu", "name-1"}
    assert not list(path.parent.glob("*.saved-*"))


def test_sqlite_may_delete_its_own_log(path: Path, used: SqlRegistry) -> None:
    used.close()
    assert not path.with_name("registry.db-wal").exists()
    assert used.find(L4.host, "l4-gpu") == L4
    with closing(SqlRegistry(path)) as other:
        other.add(nth(1))
    assert used.find(L4.host, "name-1") == nth(1)
    used.close()


def test_what_cannot_be_saved_is_refused_all_the_same(path: Path, used: SqlRegistry) -> None:
    delete("-wal")(path)
    with (
        disk_that_takes_no_more_than(0),
        pytest.raises(RegistryUnavailableError, match="start it again") as refused,
    ):
        used.ping()
    assert "What it held" not in refused.value.message
    assert not list(path.parent.glob("*.saved-*"))


def test_what_was_saved_before_is_kept(path: Path, used: SqlRegistry) -> None:
    path.with_name("registry.db.saved-1").write_text("kept from the last time")
    delete("-wal")(path)
    with pytest.raises(RegistryUnavailableError, match="saved-2"):
        used.ping()


class Warned(logging.Handler):
    """Waits for a line in the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.event = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.event.set()


@pytest.fixture
def warned() -> Iterator[Warned]:
    handler, log = Warned(), logging.getLogger("hypeman_libvirt.registry")
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


def test_a_start_that_waits_for_somebody_says_so(path: Path, warned: Warned) -> None:
    path.parent.mkdir(parents=True)
    holder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    start = threading.Thread(target=lambda: SqlRegistry(path).close())
    start.start()
    try:
        assert warned.event.wait(A_WHILE)
    finally:
        os.close(holder)
        start.join(A_WHILE)
    assert not start.is_alive()
    assert warned.lines == [f"waiting for who holds {path.parent} locked; lslocks says who does"]
    assert path.exists()


def test_a_start_that_need_not_wait_says_nothing(path: Path, warned: Warned) -> None:
    SqlRegistry(path).close()
    assert warned.lines == []
