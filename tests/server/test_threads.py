from __future__ import annotations

import threading

import pytest

from hypeman_libvirt.server.threads import DaemonThreads


def test_results_and_errors_come_back() -> None:
    threads = DaemonThreads(2)
    assert threads.submit(int, "7").result(300) == 7
    with pytest.raises(ValueError, match="seven"):
        threads.submit(int, "seven").result(300)
    threads.shutdown()


def test_one_thread_serves_one_after_the_other() -> None:
    threads = DaemonThreads(8)
    used = {threads.submit(threading.get_ident).result(300)}
    while len(used) == 1 and threads.submit(threading.get_ident).result(300) not in used:
        pass  # a thread that has answered is free a moment later
    assert len(used) == 1
    threads.shutdown()


def test_no_more_than_the_most_run_at_once() -> None:
    threads, hang = DaemonThreads(2), threading.Event()
    running = [threads.submit(hang.wait, 300) for _ in range(3)]
    while not (running[0].running() and running[1].running()):
        pass
    assert not running[2].running()
    hang.set()
    assert [each.result(300) for each in running] == [True] * 3
    threads.shutdown()


def test_a_thread_that_hangs_holds_up_no_end() -> None:
    threads, hang = DaemonThreads(1), threading.Event()
    threads.submit(hang.wait, 300)
    threads.shutdown()
    assert all(each.daemon for each in threading.enumerate() if each.name == "request-0")
    hang.set()
