from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hypeman_libvirt
from hypeman_libvirt.cli.wording import in_flags
from hypeman_libvirt.printable import printable

PACKAGE = Path(hypeman_libvirt.__file__).parent
_OF_HTTP = re.compile(r"\b(GET|POST|PUT|PATCH|DELETE) /|Authorization|[a-z]=(true|group|device)\b")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "no device 'x' is registered; GET /devices lists those that are",
            "no device 'x' is registered; hypeman-libvirt devices list shows those that are",
        ),
        (
            "no PCI device 0000:01:00.0 on this host; GET /devices/available lists them",
            "no PCI device 0000:01:00.0 on this host; hypeman-libvirt devices available lists them",
        ),
        ("GET /iommu-groups lists them", "hypeman-libvirt devices groups lists them"),
        ("or pass force=true if", "or --force if"),
        ("or use scope=group", "or use --scope group"),
        ('send "scope": "group"', "send --scope group"),
        (
            "no token; send Authorization: Bearer <token>",
            "no token; set HYPEMAN_API_KEY or --api-key",
        ),
        ("domain vm-1 has it", "domain vm-1 has it"),
    ],
)
def test_advice_is_in_the_words_of_the_command_line(said: str, shown: str) -> None:
    assert in_flags(said) == shown


def advice() -> Iterator[str]:
    """Find every text for clients that the rules, the host and the API write."""
    for package in ("devices", "host", "rest"):
        for file in (PACKAGE / package).rglob("*.py"):
            tree = ast.parse(file.read_text())
            docs = {
                ast.get_docstring(node, clean=False)
                for node in ast.walk(tree)
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    is_text = " " in node.value and node.value not in docs
                    if is_text and _OF_HTTP.search(node.value):
                        yield node.value


def test_no_advice_speaks_of_requests() -> None:
    written = list(advice())
    assert len(written) > 5
    assert [each for each in written if _OF_HTTP.search(in_flags(each))] == []


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("l4-gpu", "l4-gpu"),
        ("Größe 🚀", "Größe 🚀"),
        ("\x1b]0;OWNED\x07", "\\x1b]0;OWNED\\x07"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x9b31m", "\\x9b31m"),
        ("abc\u202ecba", "abc\\u202ecba"),
    ],
)
def test_control_characters_are_escaped(raw: str, shown: str) -> None:
    assert printable(raw) == shown
