"""Claims are linearizable while hubs, agents and the database are killed, again and again."""

from __future__ import annotations

import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import pytest
from hypeman_fleet.local import LocalFleet, local_fleet
from hypeman_fleet.postgres import Postgres

from tests.trust.linear import Call, NoOrderError, find_order

pytestmark = [pytest.mark.fleet, pytest.mark.testdriver]
SECONDS: Final = float(os.environ.get("HYPEMAN_LIBVIRT_FLEET_SECONDS", "15"))
"""1800 by name: HYPEMAN_LIBVIRT_FLEET_SECONDS=1800."""
CLIENTS: Final = 4
GPUS: Final = ("0000:a2:00.0", "0000:41:00.0", "0000:65:00.0")
_LOST: Final = frozenset({409, 503, 504})
Held = frozenset[str]
NOTHING: Final[Held] = frozenset()


class Client:
    """Claims and releases, and repeats whatever was not answered with the same key."""

    def __init__(self, fleet: LocalFleet, number: int, history: list[Call]) -> None:
        self._fleet = fleet
        self._chance = random.Random(number)  # noqa: S311
        self._number = number
        self._history = history

    def run(self, ended: threading.Event) -> None:
        """Go on until it is time."""
        for turn in range(1_000_000):
            if ended.is_set():
                return
            count = self._chance.choice((1, 1, 2))
            claim, devices = self._claim(f"{self._number}-{turn}", count)
            if claim is not None:
                self._release(claim, devices)

    def _claim(self, key: str, count: int) -> tuple[str | None, Held]:
        began = time.monotonic()
        while True:
            status, body = self._ask("POST", "/devices/claims", {"count": count}, key)
            if status == 201:
                devices = frozenset(f"{each['id']}" for each in body["devices"])
                self._note(f"claim {count}", began, devices)
                return body["id"], devices
            if status == 409 and body["code"] == "no_capacity":
                self._note(f"claim {count}", began, None)
                return None, frozenset()

    def _release(self, claim: str, devices: Held) -> None:
        began = time.monotonic()
        while True:
            status, _ = self._ask("DELETE", f"/devices/claims/{claim}")
            if status in {204, 404}:
                self._note("release", began, devices)
                return

    def _note(self, what: str, began: float, answer: Hashable) -> None:
        self._history.append(Call(what, began, time.monotonic(), answer))

    def _ask(
        self, method: str, path: str, body: object = None, key: str | None = None
    ) -> tuple[int, Any]:
        """Return status and body; 0 where no answer came."""
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._fleet.url + path, content, method=method)  # noqa: S310
        request.add_header("Authorization", f"Bearer {self._fleet.token}")
        request.add_header("Content-Type", "application/json")
        if key is not None:
            request.add_header("Idempotency-Key", key)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                if error.code not in _LOST | {404}:
                    raise
                time.sleep(0.05)
                return error.code, json.loads(error.read() or b"null")
        except (OSError, ValueError):
            time.sleep(0.05)
            return 0, None


def step(held: Held, call: Call) -> Held | None:
    """Return what is held after a call, or None if it could not have answered so.

    A refusal is possible at any time: what a hub that was killed has reserved is nobody's, until
    another one gives it back.
    """
    if call.answer is None:
        return held
    devices: Held = call.answer  # type: ignore[assignment]
    if call.what == "release":
        return held - devices if devices <= held else None
    return None if devices & held else held | devices


def test_the_order_finds_a_device_that_was_given_twice() -> None:
    one = frozenset({"gpu"})
    twice = [Call("claim 1", 0, 1, one), Call("claim 1", 2, 3, one), Call("release", 4, 5, one)]
    with pytest.raises(NoOrderError):
        find_order(twice, NOTHING, step)


def test_claims_are_linearizable_whatever_is_killed(postgres: Postgres, tmp_path: Path) -> None:
    history: list[Call] = []
    ended = threading.Event()
    with local_fleet(postgres, tmp_path, ["alpha", "beta"]) as fleet:
        for host in ("alpha", "beta"):
            for number, address in enumerate(GPUS):
                body = {"pci_address": f"{address}@{host}", "name": f"gpu{number}"}
                fleet.ask("POST", "/devices", body)
        clients = [Client(fleet, number, history) for number in range(CLIENTS)]
        threads = [threading.Thread(target=each.run, args=(ended,)) for each in clients]
        for thread in threads:
            thread.start()
        try:
            kills = break_things(fleet, postgres)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    assert kills > 0
    assert sum(call.answer is not None and call.what != "release" for call in history) > kills
    assert len(find_order(history, NOTHING, step)) == len(history)
    print(f"{len(history)} calls, {kills} kills, linearizable")  # noqa: T201


def break_things(fleet: LocalFleet, postgres: Postgres) -> int:
    """Kill hub, database and agents by turns until it is time; return how often."""
    chance, kills = random.Random(7), 0  # noqa: S311
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(chance.uniform(1.0, 3.0))
        victim = chance.choice(("hub", "hub", "database", "alpha"))
        if victim == "database":
            postgres.restart()
        elif victim == "hub":
            fleet.kill("hub")
            fleet.start_hub()
        else:
            fleet.kill(victim)
            fleet.start_agent(victim)
        kills += 1
    return kills
