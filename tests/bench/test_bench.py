"""The benchmark's own arithmetic; what it measures is never asserted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypeman_bench import host_files
from hypeman_bench.cli import judge, measure, table
from hypeman_bench.load import Load, percentile, round_trip
from hypeman_bench.scenarios import Measure, Scenario, list_scenarios


@contextmanager
def counting(_: Path) -> Iterator[Measure]:
    figures = iter([100.0, 3.0, 1.0, 2.0])
    yield lambda _: next(figures)


def test_the_first_round_warms_up_and_does_not_count() -> None:
    assert measure(Scenario("three", "F", counting), 3, 0.1) == [3.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("best", "figures", "met"),
    [
        ("least", [0.4, 0.5, 0.6], True),
        ("least", [0.9, 0.4, 0.4], False),
        ("most", [9.0, 1.0, 1.2], True),
        ("most", [1.0, 1.3, 1.3], False),
    ],
)
def test_the_median_decides(best: str, figures: Sequence[float], met: bool) -> None:
    target = 0.5 if best == "least" else 1.2
    line = judge(Scenario("any", "F", counting, target, best), figures)  # type: ignore[arg-type]
    assert line.met is met
    assert (line.least, line.most) == (min(figures), max(figures))
    assert ("MISSED" in table([line])) is not met


def test_without_a_target_nothing_is_judged() -> None:
    line = judge(Scenario("any", "F", counting), [1.0])
    assert (line.target, line.met) == (None, None)


def test_a_round_trip_is_the_time_of_one_answer() -> None:
    assert round_trip(Load(per_second=200.0, p99=1.0)) == pytest.approx(0.005)
    assert percentile(range(1, 101), 99) == pytest.approx(99.01)


def test_every_scenario_has_a_name_of_its_own() -> None:
    names = [each.name for each in list_scenarios()]
    assert len(set(names)) == len(names)


def test_generated_addresses_are_all_different() -> None:
    assert len({host_files.address(number) for number in range(400)}) == 400
