"""Calls that are counted, fail or hang when a test says so."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tests.fake_errors import failure

_LONGEST_HANG: Final = 60.0


@dataclass
class Hang:
    """A call that does not come back until it is released; ``entered`` is set once it hangs."""

    entered: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        self.released.set()

    def wait(self) -> None:
        self.entered.set()
        if not self.released.wait(_LONGEST_HANG):
            raise AssertionError("a call that a test let hang was never released")

    def __enter__(self) -> Hang:  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass
class _Refusal:
    code: int
    domain: int
    times: int | None
    not_yet: int = 0


class Faults:
    """What a test wants to go wrong, by the name that the call has in the binding."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.lock = threading.RLock()
        self._hangs: dict[str, Hang] = {}
        self._refusals: dict[str, _Refusal] = {}
        self._lost_replies: dict[str, int] = {}
        self.before_call: Callable[[str], None] = lambda _: None

    def refuse(self, call: str, code: int, domain: int = 0, times: int | None = None) -> None:
        """Let a call (by its name in the binding, or ``open``) fail, for ever or some times."""
        self._refusals[call] = _Refusal(code, domain, times)

    def fail_after(self, call: str, successes: int, code: int, domain: int = 0) -> None:
        """Let a call succeed so many times from now on, and then fail once."""
        self._refusals[call] = _Refusal(code, domain, 1, successes)

    def allow(self, call: str) -> None:
        """Take a refusal back."""
        self._refusals.pop(call, None)

    def lose_reply(self, call: str, *, after: int = 0) -> None:
        """Let a call succeed so many times, and then succeed once while its connection breaks."""
        self._lost_replies[call] = after

    def loses_reply(self, call: str) -> bool:
        """Whether the call that has just succeeded is the one whose reply is lost."""
        with self.lock:
            left = self._lost_replies.get(call)
            if left is None:
                return False
            self._lost_replies[call] = left - 1
            if left == 0:
                del self._lost_replies[call]
            return left == 0

    def is_refused(self, call: str) -> bool:
        """Whether the call would fail now."""
        return call in self._refusals

    def hang(self, call: str) -> Hang:
        """Let a call hang from now on until the returned object is released."""
        self._hangs[call] = Hang()
        return self._hangs[call]

    def enter(self, call: str) -> None:
        """Count a call, let it hang, let it fail."""
        self.before_call(call)
        with self.lock:
            self.calls[call] += 1
            hang = self._hangs.get(call)
        if hang is not None:
            hang.wait()
        with self.lock:
            refusal = self._refusals.get(call)
            if refusal is None:
                return
            if refusal.not_yet:
                refusal.not_yet -= 1
                return
            if refusal.times is not None:
                refusal.times -= 1
                if refusal.times <= 0:
                    del self._refusals[call]
        raise failure(refusal.code, refusal.domain, f"{call} refused by the test")
