"""Operations that exclude each other, time out and end, each without the other's harm."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

import pytest

from hypeman_libvirt.devices.errors import BusyError, OperationTimeoutError
from hypeman_libvirt.devices.ports import HostChanges
from hypeman_libvirt.devices.transaction import Transaction, Transactions
from hypeman_libvirt.registry.locks import FileLocks

LONG = 30.0


def no_changes() -> AbstractContextManager[HostChanges]:
    return nullcontext(cast("HostChanges", None))


def transactions(directory: Path, *, deadline: float = LONG, at_once: int = 2) -> Transactions:
    return Transactions(no_changes, FileLocks(directory), deadline=deadline, at_once=at_once)


def do_nothing(_: Transaction) -> None:
    pass


def test_the_result_and_the_error_of_the_work_come_back(tmp_path: Path) -> None:
    operations = transactions(tmp_path, at_once=1)
    assert operations.run({"a"}, lambda _: 42) == 42
    with pytest.raises(ZeroDivisionError):
        operations.run({"a"}, lambda _: 1 // 0)
    assert operations.run({"a"}, lambda _: 43) == 43


def test_what_was_done_is_undone_in_reverse_if_the_work_fails(tmp_path: Path) -> None:
    undone: list[int] = []

    def fail(transaction: Transaction) -> None:
        for number in (1, 2):
            transaction.undo.callback(undone.append, number)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        transactions(tmp_path).run({"a"}, fail)
    assert undone == [2, 1]


def test_a_timeout_raised_by_the_work_is_the_works_own(tmp_path: Path) -> None:
    def fail(_: Transaction) -> None:
        raise TimeoutError("the work's own")

    with pytest.raises(TimeoutError, match="the work's own"):
        transactions(tmp_path).run({"a"}, fail)


def test_work_that_hangs_times_out_and_answers_busy_until_it_is_back(tmp_path: Path) -> None:
    operations = transactions(tmp_path, deadline=0.05)
    back = threading.Event()
    with pytest.raises(OperationTimeoutError):
        operations.run({"gpu", "audio"}, lambda _: back.wait(LONG))
    with pytest.raises(BusyError, match="another operation on audio"):
        operations.run({"audio"}, do_nothing)
    assert not operations.drain(0.01)
    back.set()
    assert operations.drain(LONG)
    assert operations.run({"gpu"}, lambda _: "again") == "again"


def test_others_go_on_while_one_hangs(tmp_path: Path) -> None:
    hanging = transactions(tmp_path, deadline=0.05)
    back = threading.Event()
    with pytest.raises(OperationTimeoutError):
        hanging.run({"gpu"}, lambda _: back.wait(LONG))
    assert transactions(tmp_path).run({"nic"}, lambda _: "free") == "free"
    back.set()
    assert hanging.drain(LONG)


def test_when_every_worker_waits_the_next_operation_is_refused_not_queued(tmp_path: Path) -> None:
    operations = transactions(tmp_path, deadline=0.05, at_once=1)
    back = threading.Event()
    with pytest.raises(OperationTimeoutError):
        operations.run({"gpu"}, lambda _: back.wait(LONG))
    with pytest.raises(BusyError, match="all 1 workers"):
        operations.run({"nic"}, do_nothing)
    back.set()
    assert operations.drain(LONG)
    operations.run({"nic"}, do_nothing)


def test_a_thread_that_cannot_start_leaves_neither_lock_nor_worker(tmp_path: Path) -> None:
    refusing = True

    def start(thread: threading.Thread) -> None:
        if refusing:
            raise RuntimeError("can't start new thread")
        thread.start()

    operations = Transactions(
        no_changes, FileLocks(tmp_path), deadline=LONG, at_once=1, start=start
    )
    with pytest.raises(BusyError, match="no more threads"):
        operations.run({"gpu"}, do_nothing)
    refusing = False
    assert operations.run({"gpu"}, lambda _: "started") == "started"


def test_a_connection_that_cannot_be_opened_leaves_neither_lock_nor_worker(
    tmp_path: Path,
) -> None:
    def open_changes() -> AbstractContextManager[HostChanges]:
        raise ConnectionError

    operations = Transactions(open_changes, FileLocks(tmp_path), deadline=LONG, at_once=1)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            operations.run({"gpu"}, do_nothing)
    assert operations.drain(0)


def test_an_operation_keeps_what_it_locks_on_the_way_until_it_ends(tmp_path: Path) -> None:
    operations = transactions(tmp_path)

    def lock_more(transaction: Transaction) -> None:
        transaction.lock(["domain 1"])
        transaction.lock(["domain 1", "gpu"])  # what is locked already is no obstacle
        with pytest.raises(BusyError, match="domain 1"):
            operations.run({"domain 1"}, do_nothing)

    operations.run({"gpu"}, lock_more)
    operations.run({"gpu", "domain 1"}, do_nothing)
