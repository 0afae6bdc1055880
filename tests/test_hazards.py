"""Every hazard is held by a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECTION = (ROOT / "contrib" / "docs" / "hazards.md").read_text()
ROWS = [line for line in SECTION.splitlines() if line.startswith("| ")][1:]


def test_every_hazard_names_its_test() -> None:
    assert ROWS
    assert [row for row in ROWS if not re.search(r"`tests/\S+::test_\w+`", row)] == []


def test_the_tests_exist() -> None:
    named = re.findall(r"`(tests/\S+)::(\w+)`", SECTION)
    assert [name for file, name in named if f"def {name}(" not in (ROOT / file).read_text()] == []
