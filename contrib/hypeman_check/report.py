"""What came of the checks: JUnit files and exit statuses become a table and one last line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

_SUMS: Final = ("tests", "failures", "errors", "skipped")
_SKIPPED: Final = re.compile(r"^skipped: (.+)$", re.MULTILINE)
_COLUMNS: Final = ("check", "passed", "failed", "skipped", "seconds")


@dataclass(frozen=True)
class Result:
    """What came of one check.

    Attributes:
        name: Of the check.
        passed: Tests that passed; a check without tests is one.
        failed: Tests that failed; 1 if the check failed otherwise.
        skipped: Tests, or parts, that were skipped.
        seconds: From its start to its end, installing included.
        reasons: Why something was skipped, each with how often.
    """

    name: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    reasons: Counter[str]


def read_result(name: str, status: int, seconds: float, log: str, junit: Path) -> Result:
    """Add up what pytest reported of a check; without a report the exit status counts.

    Args:
        name: Of the check.
        status: Its exit status.
        seconds: That it took.
        log: What it printed; a line ``skipped: REASON`` is a part that was skipped.
        junit: The directory of the reports.
    """
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter(_SKIPPED.findall(log))
    reports = [*junit.glob(f"{name}.xml"), *junit.glob(f"{name}-*.xml")]
    for report in reports:
        root = ET.parse(report).getroot()  # noqa: S314  # our own files
        for suite in root.iter("testsuite"):
            counts.update({key: int(suite.get(key, 0)) for key in _SUMS})
        reasons.update(each.get("message", "") for each in root.iter("skipped"))
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"] if reports else int(status == 0)
    failed = failed or int(status != 0)
    return Result(name, passed, failed, reasons.total(), seconds, reasons)


def table(results: Iterable[Result]) -> str:
    """Return one row for each check."""
    rows = [
        (each.name, each.passed, each.failed, each.skipped, round(each.seconds)) for each in results
    ]
    width = max(len(str(row[0])) for row in [_COLUMNS, *rows])
    return "\n".join(
        f"{row[0]:<{width}}" + "".join(f"{cell:>9}" for cell in row[1:])
        for row in [_COLUMNS, *rows]
    )


def left_out(results: Iterable[Result]) -> list[str]:
    """Say which tests were skipped and why, in a line for each reason."""
    checks: dict[str, Counter[str]] = {}
    for result in results:
        for reason, count in result.reasons.items():
            checks.setdefault(reason, Counter())[result.name] += count
    return [
        f"{', '.join(f'{count} of {name}' for name, count in sorted(by.items()))}: {reason}"
        for reason, by in sorted(checks.items())
    ]


def summary(results: Sequence[Result]) -> str:
    """Return the last line, which continuous integration reads."""
    passed, failed, skipped = (
        sum(getattr(each, key) for each in results) for key in ("passed", "failed", "skipped")
    )
    return f"{passed} passed, {failed} failed, {skipped} skipped"
