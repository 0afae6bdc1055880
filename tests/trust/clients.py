"""Clients that do anything to a few devices, and what they may be told."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tests.trust.linear import Call, find_order

Ask = Callable[[str, str, object], tuple[int, Any]]
"""Sends a method, a path and a body; returns the status and the body of the answer."""
History = dict[str, list[Call]]
"""What a client was told, by address."""


NOTHING_DONE = frozenset({"busy", "overloaded", "registry_unavailable", "libvirt_error"})
"""Codes of answers after which all is as it was: another has the device, or libvirt failed."""


class Device(NamedTuple):
    """What operations can change of one device."""

    registered: bool = False
    bound: bool = False
    holder: str | None = None


def step(now: Device, call: Call) -> Device | None:
    """Say what a call that answered so leaves behind; None if it could not have, then."""
    name, _, domain = call.what.partition(" ")
    if call.answer in NOTHING_DONE:
        return now
    if call.answer == "not_found":
        return None if now.registered else now
    if name == "see":
        return now if now.registered and _shows(now, call.answer) else None
    outcomes: dict[tuple[str, Hashable], tuple[bool, Device]] = {
        ("register", 201): (not now.registered, now._replace(registered=True)),
        ("register", "conflict"): (now.registered, now),
        ("delete", 204): (now.holder is None, now._replace(registered=False)),
        ("delete", "in_use"): (now.holder is not None, now),
        ("bind", 200): (True, now._replace(bound=True)),
        ("bind", "in_use"): (now.holder is not None, now),
        ("unbind", 200): (True, now._replace(bound=False)),
        ("attach", 200): (now.holder in {None, domain}, now._replace(holder=domain)),
        ("attach", "in_use"): (now.holder not in {None, domain}, now),
        ("detach", 200): (now.holder is not None, now._replace(holder=None)),
        ("detach", "not_attached"): (now.holder is None, now),
    }
    possible, after = outcomes.get((name, call.answer), (False, now))
    known = now.registered or name == "register"
    return after if possible and known else None


def _shows(now: Device, answer: Hashable) -> bool:
    assert isinstance(answer, tuple)
    what, value = answer
    return bool(getattr(now, what) == value)


class Client:
    """One of many, which does anything to any device and notes what it was told."""

    def __init__(self, ask: Ask, seed: int, domains: Mapping[str, str]) -> None:
        """Begin with no history.

        Args:
            ask: Sends its requests.
            seed: Of what it does.
            domains: Names by UUID.
        """
        self._send = ask
        self._random = random.Random(seed)  # noqa: S311 - what to do next
        self._domains = domains
        self.history: History = {}

    def work(self, addresses: Sequence[str], until: float) -> None:
        """Go on until that moment of the monotonic clock."""
        while time.monotonic() < until:
            self._act(self._random.choice(addresses))

    def _act(self, address: str) -> None:
        what = self._random.choice(
            ["register", "delete", "bind", "unbind", "see", "see", "attach", "attach", "detach"]
        )
        domain = self._random.choice([*self._domains.values()])
        began = time.monotonic()
        status, answer = self._ask(what, address, domain)
        ended = time.monotonic()
        named = f"{what} {domain}" if what == "attach" else what
        notes = self.history.setdefault(address, [])
        if what == "see" and status == 200:
            holder = self._domains.get(answer["attached_to"])
            notes.append(Call(what, began, ended, ("bound", answer["bound_to_vfio"])))
            notes.append(Call(what, began, ended, ("holder", holder)))
        else:
            notes.append(Call(named, began, ended, status if status < 300 else answer["code"]))

    def _ask(self, what: str, address: str, domain: str) -> tuple[int, Any]:
        path = f"/devices/{address}"
        if what == "register":
            body = {"pci_address": address, "name": "gpu-" + re.sub(r"\W", "-", address)}
            return self._send("POST", "/devices", body)
        if what in {"see", "delete"}:
            return self._send("GET" if what == "see" else "DELETE", path, None)
        return self._send(
            "POST", f"{path}/{what}", {"instance": domain} if what == "attach" else {}
        )


def drive(
    asks: Sequence[Ask], addresses: Sequence[str], domains: Mapping[str, str], seconds: float
) -> Counter[Hashable]:
    """Let a client for each of them do anything, and check what they were told.

    Returns:
        How often each answer was given.
    """
    clients = [Client(ask, seed, domains) for seed, ask in enumerate(asks)]
    until = time.monotonic() + seconds
    run([threading.Thread(target=each.work, args=(addresses, until)) for each in clients])
    return check(client.history for client in clients)


def run(threads: Sequence[threading.Thread]) -> None:
    """Start all and wait for all."""
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def check(histories: Iterable[History]) -> Counter[Hashable]:
    """Find an order for each device, or fail; return how often each answer was given."""
    answers: Counter[Hashable] = Counter()
    noted = list(histories)
    for address in {address for history in noted for address in history}:
        history = [each for notes in noted for each in notes.get(address, ())]
        answers.update(each.answer for each in history)
        find_order(history, Device(), step)
    return answers
