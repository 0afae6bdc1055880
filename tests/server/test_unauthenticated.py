"""Whoever has no token cannot make those wait who have one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hypeman_libvirt.rest.auth import BearerAuth
from hypeman_libvirt.server.unauthenticated import UnauthenticatedLimit
from tests.api.client import SECRET, token

NOBODY: dict[str, Any] = {"headers": [(b"host", b"h")]}
FORGER: dict[str, Any] = {"headers": [(b"authorization", b"Bearer " + b"a" * 100)]}
ALICE: dict[str, Any] = {"headers": [(b"authorization", f"Bearer {token(sub='alice')}".encode())]}
PER_SECOND = 5


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limit(clock: Clock) -> UnauthenticatedLimit:
    return UnauthenticatedLimit(BearerAuth(SECRET), PER_SECOND, clock)


@pytest.mark.parametrize("scope", [NOBODY, FORGER])
def test_more_than_a_seconds_worth_is_refused(
    limit: UnauthenticatedLimit, scope: dict[str, Any]
) -> None:
    assert [limit(scope) for _ in range(PER_SECOND)] == [None] * PER_SECOND
    refusal = limit(scope)
    assert refusal is not None
    assert (refusal.status, json.loads(refusal.body or b"")["code"]) == (503, "overloaded")
    assert (b"retry-after", b"1") in refusal.headers


def test_who_has_a_token_is_let_pass_meanwhile(limit: UnauthenticatedLimit) -> None:
    for _ in range(10 * PER_SECOND):
        limit(NOBODY)
    assert [limit(ALICE) for _ in range(10 * PER_SECOND)] == [None] * 10 * PER_SECOND


def test_a_second_later_as_many_are_let_pass_again_and_no_more(
    limit: UnauthenticatedLimit, clock: Clock
) -> None:
    for _ in range(PER_SECOND):
        limit(NOBODY)
    clock.now += 60.0
    assert [limit(NOBODY) is None for _ in range(PER_SECOND + 1)] == [True] * PER_SECOND + [False]


def test_how_many_were_refused_is_logged_now_and_then(
    limit: UnauthenticatedLimit, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(PER_SECOND + 3):
        limit(NOBODY)
    clock.now += 10.0
    for _ in range(PER_SECOND + 1):
        limit(NOBODY)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[-1] for line in lines] == ["count=1", "count=3"]
