"""Every deviation from hypeman is held by a test that exists."""

from __future__ import annotations

import re

from tests.api.document import ROOT

LISTED = (ROOT / "api" / "DEVIATIONS.md").read_text()


def test_every_deviation_names_its_test() -> None:
    rows = [line for line in LISTED.splitlines() if line.startswith("| ") and "held by" not in line]
    assert rows
    assert [row for row in rows if not re.search(r"`tests/\S+::\w+`", row)] == []


def test_the_tests_exist() -> None:
    named = re.findall(r"`(tests/\S+)::(\w+)`", LISTED)
    assert [name for file, name in named if f"def {name}(" not in (ROOT / file).read_text()] == []
