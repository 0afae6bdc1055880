from __future__ import annotations

import threading

import pytest

from hypeman_libvirt.devices.errors import BusyError, OperationTimeoutError
from hypeman_libvirt.devices.transaction import Transactions

LONG = 30.0


def test_the_result_and_the_error_of_the_work_come_back() -> None:
    operations = Transactions(deadline=LONG, at_once=1)
    assert operations.run({"a"}, lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        operations.run({"a"}, lambda: 1 // 0)
    assert operations.run({"a"}, lambda: 43) == 43


def test_a_timeout_raised_by_the_work_is_the_works_own() -> None:
    def fail() -> None:
        raise TimeoutError("the work's own")

    with pytest.raises(TimeoutError, match="the work's own"):
        Transactions(deadline=LONG, at_once=1).run({"a"}, fail)


def test_work_that_hangs_times_out_and_answers_busy_until_it_is_back() -> None:
    operations = Transactions(deadline=0.05, at_once=2)
    back, done = threading.Event(), threading.Event()

    def hang() -> None:
        back.wait(LONG)
        done.set()

    with pytest.raises(OperationTimeoutError):
        operations.run({"gpu", "audio"}, hang)
    with pytest.raises(BusyError, match="another operation on audio"):
        operations.run({"audio"}, lambda: None)
    assert operations.run({"nic"}, lambda: "free") == "free"
    back.set()
    assert done.wait(LONG)
    while operations.is_busy("gpu"):
        pass
    assert operations.run({"gpu"}, lambda: "again") == "again"


def test_when_every_worker_waits_the_next_operation_is_refused_not_queued() -> None:
    operations = Transactions(deadline=0.05, at_once=1)
    back = threading.Event()
    with pytest.raises(OperationTimeoutError):
        operations.run({"gpu"}, lambda: back.wait(LONG))
    with pytest.raises(BusyError, match="all 1 workers"):
        operations.run({"nic"}, lambda: None)
    back.set()
