"""Runs several checks at once, each with a log of its own, and says how far they are."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hypeman_check.report import Result, read_result

HEARTBEAT: Final = 15.0
"""Seconds after which is said what runs."""
_TURN: Final = 0.2
_TAIL: Final = 150
"""Lines of a failed check that are printed; its log has all of them."""
_COUNT: Final = re.compile(r"\[ *(\d+)/(\d+)\]")


@dataclass(frozen=True)
class Where:
    """Where the checks put what they write."""

    logs: Path
    junit: Path


@dataclass
class _Running:
    """A check that has been started."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    started: float = field(default_factory=time.monotonic)

    @property
    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class Runner:
    """Runs checks by name."""

    def __init__(
        self,
        command: Callable[[str], Sequence[str | Path]],
        environment: Callable[[str], Mapping[str, str]],
        where: Where,
        say: Callable[[str], None],
    ) -> None:
        """Run nothing yet.

        Args:
            command: Which command a check is.
            environment: Of that command.
            where: Where they put what they write.
            say: Prints a line.
        """
        self._command = command
        self._environment = environment
        self._where = where
        self._say = say
        self._began = time.monotonic()
        self._said = time.monotonic()

    def run(self, checks: Sequence[str], at_once: int) -> list[Result]:
        """Run checks, so many at once, and return their results in the order of their names.

        However this ends, no check is left running.
        """
        waiting, running, results = list(checks), list[_Running](), list[Result]()
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    running.append(self._start(waiting.pop(0)))
                ended = [each for each in running if each.process.poll() is not None]
                running = [each for each in running if each not in ended]
                results += map(self._end, ended)
                self._say_what_runs(running, len(waiting))
                time.sleep(0 if ended else _TURN)
        finally:
            _stop(running)
        return sorted(results, key=lambda each: checks.index(each.name))

    def _start(self, name: str) -> _Running:
        self._where.logs.mkdir(parents=True, exist_ok=True)
        log = self._where.logs / f"{name}.txt"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._command(name),
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C comes here, and from here to all of them
            )
        self._tell(f"{name} begins")
        return _Running(name, process, log)

    def _end(self, ended: _Running) -> Result:
        printed, status = ended.printed, ended.process.returncode
        result = read_result(ended.name, status, ended.seconds, printed, self._where.junit)
        if status != 0:
            self._say("\n".join(printed.splitlines()[-_TAIL:]))
            self._say(f"all of it is in {ended.log}")
        verdict = "FAILED" if result.failed else "passed"
        self._tell(
            f"{ended.name} {verdict} after {ended.seconds:.0f} s: {result.passed} passed, "
            f"{result.failed} failed, {result.skipped} skipped"
        )
        return result

    def _say_what_runs(self, running: Sequence[_Running], waiting: int) -> None:
        if running and time.monotonic() - self._said >= HEARTBEAT:
            checks = ", ".join(f"{each.name} {progress(each.printed)}" for each in running)
            self._tell(f"{checks}; {waiting} more to come")

    def _tell(self, text: str) -> None:
        self._said = time.monotonic()
        minutes, seconds = divmod(int(self._said - self._began), 60)
        self._say(f"{minutes}:{seconds:02d}  {text}")


def progress(printed: str) -> str:
    """Say how far a check is, from what tox and pytest have printed."""
    _, begun, tests = printed.rpartition("commands[")
    if counts := _COUNT.findall(tests):
        return f"{counts[-1][0]} of {counts[-1][1]} tests"
    return "runs" if begun else "is being installed"


def _stop(running: Sequence[_Running]) -> None:
    """End checks, and whatever they have started."""
    for each in running:
        each.process.send_signal(signal.SIGINT)  # tox then ends what it runs
    for each in running:
        with suppress(subprocess.TimeoutExpired):
            each.process.wait(timeout=60)
        with suppress(ProcessLookupError):
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.wait()
