"""Was there an order in which the operations could have happened one after another?

A history is linearizable if each operation can be thought to have happened at one moment between
its call and its return. Source: Herlihy and Wing, Linearizability, 1990; the search is Wing and
Gong's, which remembers what it has tried, as Lowe's does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

State = TypeVar("State", bound=Hashable)


class NoOrderError(AssertionError):
    """No order explains the answers; says how far the best one came."""


@dataclass(frozen=True)
class Call:
    """One operation.

    Attributes:
        what: Its name and arguments, for people.
        began: When it was called.
        ended: When it returned.
        answer: What it returned.
    """

    what: str
    began: float
    ended: float
    answer: Hashable


def find_order(
    calls: Sequence[Call], start: State, step: Callable[[State, Call], State | None]
) -> list[Call]:
    """Return an order that explains every answer.

    Args:
        calls: In any order.
        start: Before all of them.
        step: The state after a call, or None if it could not have answered so then.

    Raises:
        NoOrderError: There is none.
    """
    waiting = sorted(calls, key=lambda call: call.began)
    tried: set[tuple[int, frozenset[int], State]] = set()
    # The first `done` calls have happened, and of the others those in `early`.
    stack: list[tuple[int, frozenset[int], State, list[Call]]] = [(0, frozenset(), start, [])]
    best: tuple[list[Call], State, list[Call]] = ([], start, [])
    while stack:
        done, early, state, order = stack.pop()
        while done in early:
            early, done = early - {done}, done + 1
        if done == len(waiting):
            return order
        if (done, early, state) in tried:
            continue
        tried.add((done, early, state))
        possible = _possible(waiting, done, early)
        if len(order) >= len(best[0]):
            best = (order, state, [waiting[index] for index in possible])
        for index in reversed(possible):
            after = step(state, waiting[index])
            if after is not None:
                stack.append((done, early | {index}, after, [*order, waiting[index]]))
    order, state, rest = best
    raise NoOrderError(f"after {order[-8:]} it is {state}; what came next was one of {rest}")


def _possible(waiting: Sequence[Call], done: int, early: frozenset[int]) -> list[int]:
    """Return what may come next: whatever began before the first of the rest returned."""
    first_end = min(
        call.ended for index, call in enumerate(waiting[done:], done) if index not in early
    )
    possible = []
    for index in range(done, len(waiting)):
        if waiting[index].began > first_end:
            break
        if index not in early:
            possible.append(index)
    return possible
