"""Which checks there are, in the order in which they are best started."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PYTHONS: Final = ("3.11", "3.12", "3.13")
_LONGEST_FIRST: Final = ("smoke", "openapi", "fleet", "types")
_LEVELS: Final = ("testdriver", "mock")
_SHORT: Final = ("page", "npm", "audit", "imports", "lint")
COVERAGE: Final = "coverage"


@dataclass(frozen=True)
class Plan:
    """The checks to run, by their names in tox.ini, and what is left out.

    Attributes:
        checks: Run as many at once as there are cores.
        afterwards: Run when all of those have ended.
        left_out: For people: which checks, why, and how to have them.
        repeated: The suites that another Python runs too: their coverage adds nothing, and their
            properties need fewer examples.
        at_once: Of the processes that a suite runs its tests in.
    """

    checks: Sequence[str]
    afterwards: Sequence[str] = ()
    left_out: Sequence[str] = ()
    repeated: Sequence[str] = ()
    at_once: int = 1


def plan_all(pythons: Sequence[str]) -> Plan:
    """Plan every check, on each of these versions of Python."""
    suites = [_suite(version, level) for version in pythons for level in _LEVELS]
    absent = [version for version in PYTHONS if version not in pythons]
    left_out = [
        f"{_suite(version, 'mock')}, {_suite(version, 'testdriver')}: no Python {version} on this "
        f"machine; pyenv install {version} brings it"
        for version in absent
    ]
    first = len(_LEVELS)
    return Plan([*_LONGEST_FIRST, *suites, *_SHORT], [COVERAGE], left_out, suites[first:])


def plan_quick(pythons: Sequence[str], cores: int) -> Plan:
    """Plan what takes two minutes: the rules on one Python, and how the code is written.

    The one suite is spread over the cores; in the whole check, each has a suite of its own.
    """
    chosen = [_suite(pythons[0], "mock"), "imports", "lint"]
    whole = plan_all(pythons)
    rest = [each for each in (*whole.checks, *whole.afterwards) if each not in chosen]
    left_out = [
        f"{', '.join(rest)}: --quick; contrib/check runs them",
        f"coverage of {chosen[0]}, and most examples of its properties: --quick",
    ]
    return Plan(chosen, left_out=left_out, repeated=chosen, at_once=cores)


def find_pythons(find: Callable[[str], str | None] = shutil.which) -> list[str]:
    """Return the versions that are on the PATH or in pyenv, the oldest first."""
    in_pyenv = {path.parents[1].name.rpartition(".")[0] for path in pyenv_interpreters()}
    return [each for each in PYTHONS if find(f"python{each}") or each in in_pyenv]


def pyenv_interpreters() -> list[Path]:
    """Return the Pythons of pyenv, which need not be on the PATH."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return sorted(root.glob("versions/3.*/bin/python3"))


def _suite(version: str, level: str) -> str:
    return f"py{version.replace('.', '')}-{level}"
