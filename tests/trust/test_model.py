"""Whatever anybody does, and whatever fails or dies on the way: no guest and no host is harmed.

The first of them run always. ``tox -e model`` runs 100 000 of others, and
``HYPEMAN_LIBVIRT_MODEL_SEQUENCES=1000000`` makes it a night's work. A violation names the number
of its sequence; ``HYPEMAN_LIBVIRT_MODEL_FIRST`` with that number and one sequence repeats it.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.effort import examples
from tests.trust import model
from tests.trust.conftest import Figures

pytestmark = pytest.mark.usefixtures("fake_host")  # it runs on the fake alone

FEW: Final = examples(120)
CHUNK: Final = 250
SHOWN: Final = 20
MEMORY: Final = Path("/dev/shm")  # noqa: S108  # whether a disk keeps what it was given: test_disk


def test_no_sequence_harms_anybody() -> None:
    counts, violations = run_chunk(range(FEW))
    assert violations == []
    assert counts["sequences"] == FEW
    assert min(counts["faults"], counts["kills"], counts["attach: done"]) > 0


@pytest.mark.model
def test_no_sequence_of_very_many_harms_anybody(figures: Figures) -> None:
    first = int(os.environ.get("HYPEMAN_LIBVIRT_MODEL_FIRST", FEW))
    many = int(os.environ.get("HYPEMAN_LIBVIRT_MODEL_SEQUENCES", "100000"))
    began = time.monotonic()
    counts, violations = Counter[str](), list[str]()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.trust.on_the_fake", "tests.trust.model"])
    chunks = [
        range(each, min(each + CHUNK, first + many)) for each in range(first, first + many, CHUNK)
    ]
    with ProcessPoolExecutor(mp_context=context) as pool:
        for each, violated in pool.map(run_chunk, chunks):
            counts += each
            violations += violated
    for name in ("sequences", "steps", "faults", "kills", "half done"):
        figures(f"model: {name}", counts[name])
    figures("model: violations, seconds", f"{len(violations)}, {time.monotonic() - began:.0f}")
    assert violations[:SHOWN] == []
    assert counts["sequences"] == many


def run_chunk(numbers: range) -> tuple[Counter[str], list[str]]:
    """Run sequences by number, in a directory of their own."""
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        return model.run_sequences(Path(directory), numbers)
