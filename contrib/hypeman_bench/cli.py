"""The command ``contrib/bench``."""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hypeman_bench.local_libvirt import MissingError
from hypeman_bench.scenarios import Scenario, list_scenarios

SERVERS = ("granian", "waitress")
"""What ours runs on; F is on waitress always."""


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        scenario: Its name.
        unit: What the figures are multiples of.
        median: Of all rounds.
        least: Of all rounds.
        most: Of all rounds.
        target: None where there is none.
        met: None where there is no target.
    """

    scenario: str
    unit: str
    median: float
    least: float
    most: float
    target: str | None
    met: bool | None


def run() -> int:
    """Measure what the arguments say and print it; 1 if a target was missed or something failed."""
    arguments = _read_arguments()
    if arguments.fleet:
        from hypeman_bench import fleet  # noqa: PLC0415 - it needs psycopg

        print(fleet.run((10, 100) if arguments.quick else (10, 100, 1000), arguments.seconds))
        return 0
    seconds, rounds = (1.0, 1) if arguments.quick else (arguments.seconds, arguments.rounds)
    lines, skipped, failed = [], [], []
    for scenario in list_scenarios():
        if re.search(arguments.only, scenario.name) is None:
            continue
        for server in arguments.server or SERVERS:
            name = f"{scenario.name}, {server}"
            print(f"… {name}", file=sys.stderr, flush=True)
            os.environ["HYPEMAN_LIBVIRT_SERVER"] = server  # of whatever this starts
            try:
                figures = measure(scenario, rounds, seconds)
                lines.append(judge(scenario, figures, server))
            except MissingError as reason:
                skipped.append(f"skipped: {name}: {reason}")
            except SystemExit as reason:  # the other lines are worth their time
                failed.append(f"failed: {name}: {reason}")
    as_json = json.dumps([asdict(line) for line in lines], indent=2)
    print(as_json if arguments.json else table(lines))
    print(*skipped, *failed, sep="\n", file=sys.stderr)
    return int(bool(failed) or any(line.met is False for line in lines))


def measure(scenario: Scenario, rounds: int, seconds: float) -> Sequence[float]:
    """Return the figure of each round; one before them, which is not counted, warms up."""
    with tempfile.TemporaryDirectory() as directory, scenario.prepare(Path(directory)) as one_round:
        one_round(min(seconds, 1.0))
        return [one_round(seconds) for _ in range(rounds)]


def judge(scenario: Scenario, figures: Sequence[float], server: str = "granian") -> Line:
    """Return the median and whether it is good enough for that server."""
    median, target, met = statistics.median(figures), None, None
    wanted = scenario.target if server == "granian" else scenario.on_waitress or scenario.target
    if wanted is not None:
        target = f"{'≥' if scenario.best == 'least' else '≤'} {wanted:g}"
        met = median >= wanted if scenario.best == "least" else median <= wanted
    name = f"{scenario.name}, {server}"
    return Line(name, scenario.unit, median, min(figures), max(figures), target, met)


def table(lines: Sequence[Line]) -> str:
    """Lay the lines out for people, in Markdown."""
    head = "| scenario | median | min to max | target | |\n|---|---|---|---|---|"
    return "\n".join([head, *(_row(line) for line in lines)])


def _row(line: Line) -> str:
    verdict = {True: "met", False: "MISSED", None: ""}[line.met]
    figures = f"{line.median:.3g} {line.unit} | {line.least:.3g} to {line.most:.3g}"
    return f"| {line.scenario} | {figures} | {line.target or ''} | {verdict} |"


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="contrib/bench", description="Speed, as ratios.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load in each round")
    parser.add_argument("--only", default="", metavar="PATTERN", help="scenarios that match")
    parser.add_argument("--server", action="append", choices=SERVERS, help="default: each of them")
    parser.add_argument("--quick", action="store_true", help="one round of one second")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--fleet", action="store_true", help="a hub on PostgreSQL, instead")
    return parser.parse_args()
