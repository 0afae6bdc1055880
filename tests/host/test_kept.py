from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from hypeman_libvirt.host.cache.event_cache import EventCache

A_WHILE = 300.0


class Shelf:
    """Values that tests change behind the back of what keeps them, and count the reads of."""

    def __init__(self) -> None:
        self.values = {"a": 1, "b": 2}
        self.all_read = 0
        self.one_read: list[str] = []
        self.now = 0.0
        self.meanwhile: Callable[[], None] = lambda: None
        self.kept = EventCache(self.read_all, self.read_one, lambda: self.now)

    def read_all(self) -> dict[str, int]:
        self.all_read += 1
        read = dict(self.values)
        self.meanwhile()
        return read

    def read_one(self, name: str) -> int | None:
        self.one_read.append(name)
        return self.values.get(name)


def test_what_was_read_is_not_read_again() -> None:
    shelf = Shelf()
    first = shelf.kept.values()
    assert first == {"a": 1, "b": 2}
    assert shelf.kept.values() is first
    assert shelf.all_read == 1


def test_of_what_was_spoilt_only_that_is_read_again() -> None:
    shelf = Shelf()
    shelf.kept.values()
    shelf.values = {"a": 10, "b": 20}
    shelf.kept.invalidate("a")
    assert shelf.kept.values() == {"a": 10, "b": 2}
    assert (shelf.all_read, shelf.one_read) == (1, ["a"])


def test_what_is_gone_is_left_out_and_what_is_new_comes_in() -> None:
    shelf = Shelf()
    shelf.kept.values()
    shelf.values = {"b": 2, "c": 3}
    shelf.kept.invalidate("a")
    shelf.kept.invalidate("c")
    assert shelf.kept.values() == {"b": 2, "c": 3}


def test_all_are_read_again_if_all_were_spoilt() -> None:
    shelf = Shelf()
    shelf.kept.values()
    shelf.values = {"c": 3}
    shelf.kept.invalidate()
    assert shelf.kept.values() == {"c": 3}


def test_what_is_spoilt_while_it_is_read_is_read_once_more() -> None:
    shelf = Shelf()

    def change() -> None:
        shelf.meanwhile = lambda: None
        shelf.values = {"a": 10}
        shelf.kept.invalidate()

    shelf.meanwhile = change
    shelf.kept.values()
    assert shelf.kept.values() == {"a": 10}
    assert shelf.all_read == 2


def test_a_reader_that_fails_leaves_it_spoilt() -> None:
    shelf = Shelf()

    def fail() -> None:
        raise OSError

    shelf.meanwhile = fail
    with pytest.raises(OSError):  # noqa: PT011 - it has no message
        shelf.kept.values()
    shelf.meanwhile = lambda: None
    assert shelf.kept.values() == {"a": 1, "b": 2}


def test_all_are_read_again_after_a_while_should_an_announcement_be_lost() -> None:
    shelf = Shelf()
    shelf.kept.values()
    shelf.values = {"a": 10}
    shelf.now = 29.0
    assert shelf.kept.values() == {"a": 1, "b": 2}
    shelf.now = 30.0
    assert shelf.kept.values() == {"a": 10}


def test_who_comes_while_another_one_reads_waits_for_what_is_true() -> None:
    shelf = Shelf()
    shelf.kept.values()
    reading, go_on = threading.Event(), threading.Event()
    answers: list[object] = []

    def wait() -> None:
        reading.set()
        assert go_on.wait(A_WHILE)

    shelf.meanwhile = wait
    shelf.values = {"a": 10}
    shelf.kept.invalidate()
    readers = [threading.Thread(target=lambda: answers.append(shelf.kept.values())) for _ in "12"]
    for reader in readers:
        reader.start()
    assert reading.wait(A_WHILE)
    assert answers == []
    go_on.set()
    for reader in readers:
        reader.join(A_WHILE)
    assert answers == [{"a": 10}, {"a": 10}]
    assert shelf.all_read == 2


def test_nobody_waits_for_what_is_only_old() -> None:
    shelf = Shelf()
    shelf.kept.values()
    shelf.now = 30.0
    answers: list[object] = []

    def come_meanwhile() -> None:
        other = threading.Thread(target=lambda: answers.append(shelf.kept.values()))
        other.start()
        other.join(A_WHILE)

    shelf.meanwhile = come_meanwhile
    shelf.values = {"a": 10}
    assert shelf.kept.values() == {"a": 10}
    assert answers == [{"a": 1, "b": 2}]
