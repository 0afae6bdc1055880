"""A cache whose entries are invalidated one by one, or all at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from hypeman_libvirt.host.cache.event_cache import EventCache

A_WHILE = 300.0


class Source:
    """Values that tests change without the cache's knowledge, and count the reads of."""

    def __init__(self) -> None:
        self.values = {"a": 1, "b": 2}
        self.all_read = 0
        self.one_read: list[str] = []
        self.now = 0.0
        self.meanwhile: Callable[[], None] = lambda: None
        self.cache = EventCache(self.read_all, self.read_one, lambda: self.now)

    def read_all(self) -> dict[str, int]:
        self.all_read += 1
        read = dict(self.values)
        self.meanwhile()
        return read

    def read_one(self, name: str) -> int | None:
        self.one_read.append(name)
        return self.values.get(name)


def test_what_was_read_is_not_read_again() -> None:
    source = Source()
    first = source.cache.values()
    assert first == {"a": 1, "b": 2}
    assert source.cache.values() is first
    assert source.all_read == 1


def test_only_what_was_invalidated_is_read_again() -> None:
    source = Source()
    source.cache.values()
    source.values = {"a": 10, "b": 20}
    source.cache.invalidate("a")
    assert source.cache.values() == {"a": 10, "b": 2}
    assert (source.all_read, source.one_read) == (1, ["a"])


def test_what_is_gone_is_left_out_and_what_is_new_comes_in() -> None:
    source = Source()
    source.cache.values()
    source.values = {"b": 2, "c": 3}
    source.cache.invalidate("a")
    source.cache.invalidate("c")
    assert source.cache.values() == {"b": 2, "c": 3}


def test_all_are_read_again_if_all_were_invalidated() -> None:
    source = Source()
    source.cache.values()
    source.values = {"c": 3}
    source.cache.invalidate()
    assert source.cache.values() == {"c": 3}


def test_what_is_invalidated_while_it_is_read_is_read_once_more() -> None:
    source = Source()

    def change() -> None:
        source.meanwhile = lambda: None
        source.values = {"a": 10}
        source.cache.invalidate()

    source.meanwhile = change
    source.cache.values()
    assert source.cache.values() == {"a": 10}
    assert source.all_read == 2


def test_a_read_that_fails_leaves_it_invalid() -> None:
    source = Source()

    def fail() -> None:
        raise OSError

    source.meanwhile = fail
    with pytest.raises(OSError):  # noqa: PT011 - it has no message
        source.cache.values()
    source.meanwhile = lambda: None
    assert source.cache.values() == {"a": 1, "b": 2}


def test_all_are_read_again_after_a_while_should_an_announcement_be_lost() -> None:
    source = Source()
    source.cache.values()
    source.values = {"a": 10}
    source.now = 29.0
    assert source.cache.values() == {"a": 1, "b": 2}
    source.now = 30.0
    assert source.cache.values() == {"a": 10}


def test_who_comes_while_another_one_reads_waits_for_what_is_true() -> None:
    source = Source()
    source.cache.values()
    reading, go_on = threading.Event(), threading.Event()
    answers: list[object] = []

    def wait() -> None:
        reading.set()
        assert go_on.wait(A_WHILE)

    source.meanwhile = wait
    source.values = {"a": 10}
    source.cache.invalidate()
    readers = [threading.Thread(target=lambda: answers.append(source.cache.values())) for _ in "12"]
    for reader in readers:
        reader.start()
    assert reading.wait(A_WHILE)
    assert answers == []
    go_on.set()
    for reader in readers:
        reader.join(A_WHILE)
    assert answers == [{"a": 10}, {"a": 10}]
    assert source.all_read == 2


def test_nobody_waits_for_what_is_only_old() -> None:
    source = Source()
    source.cache.values()
    source.now = 30.0
    answers: list[object] = []

    def come_meanwhile() -> None:
        other = threading.Thread(target=lambda: answers.append(source.cache.values()))
        other.start()
        other.join(A_WHILE)

    source.meanwhile = come_meanwhile
    source.values = {"a": 10}
    assert source.cache.values() == {"a": 10}
    assert answers == [{"a": 1, "b": 2}]
