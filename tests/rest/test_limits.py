"""Requests that wait are as many as are allowed, and all others find a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest

from hypeman_libvirt.devices.errors import OverloadedError, TooManyListenersError
from hypeman_libvirt.rest.limits import HeldStream, Limits, Waits

A_WHILE = 30.0


def limits(patience: float = 0.0) -> Limits:
    return Limits(reads=2, changes=1, followers=1, patience=patience)


@contextmanager
def place(of: Limits, waits: Waits) -> Iterator[None]:
    of.enter(waits)
    yield
    of.leave(waits)


@pytest.mark.parametrize(
    ("waits", "refusal"), [("change", OverloadedError), ("follow", TooManyListenersError)]
)
def test_one_too_many_is_refused_and_reads_go_on(waits: Waits, refusal: type[Exception]) -> None:
    most = limits()
    with place(most, waits):
        with pytest.raises(refusal):
            most.enter(waits)
        with place(most, "read"), place(most, "read"):
            pass
    with place(most, waits):
        pass


def test_one_caller_follows_with_half_of_the_places() -> None:
    most = Limits(reads=1, changes=1, followers=4, patience=0.0)
    for _ in range(2):
        most.enter("follow", "alice")
    for caller in ("bob", None):
        with pytest.raises(TooManyListenersError, match="2 clients listen already with this"):
            most.enter("follow", "alice")
        most.enter("follow", caller)
    with pytest.raises(TooManyListenersError, match="4 clients listen already"):
        most.enter("follow", "carol")
    most.leave("follow", "alice")
    most.enter("follow", "alice")


def test_reads_that_hang_leave_no_place_for_more() -> None:
    most = limits()
    for _ in range(4):
        most.enter("read")
    kinds: tuple[Waits, ...] = ("read", "change")
    for waits in kinds:
        with pytest.raises(OverloadedError, match="4 requests wait"):
            most.enter(waits)


def test_as_many_reads_as_come_are_answered_while_they_come_and_go() -> None:
    most = limits(patience=A_WHILE)

    def read(_: int) -> None:
        with place(most, "read"):
            pass

    with ThreadPoolExecutor(16) as clients:
        list(clients.map(read, range(500)))


def test_whoever_waits_gets_the_place_that_is_given_back() -> None:
    most = limits(patience=A_WHILE)
    most.enter("change")
    waiting = threading.Thread(target=most.enter, args=("change",))
    waiting.start()
    most.leave("change")
    waiting.join(A_WHILE)
    assert not waiting.is_alive()


def test_a_stream_keeps_its_place_until_it_is_closed() -> None:
    most = limits()

    class Chunks:
        closed = False

        def __iter__(self) -> Iterator[bytes]:
            return iter([b"one"])

        def close(self) -> None:
            self.closed = True

    chunks = Chunks()
    most.enter("follow")
    with closing(HeldStream(chunks, lambda: most.leave("follow"))) as stream:
        assert list(stream) == [b"one"]
        with pytest.raises(TooManyListenersError):
            most.enter("follow")
    assert chunks.closed
    stream.close()
    with place(most, "follow"), pytest.raises(TooManyListenersError):
        most.enter("follow")
