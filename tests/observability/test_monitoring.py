"""The dashboard and the alert rules ask for what there is, and are never empty."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.observability.scraping import Scraped, samples

OBSERVABILITY = Path(__file__).parents[2] / "contrib" / "observability"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (prometheus)")


def panels() -> list[dict[str, Any]]:
    dashboard: dict[str, Any] = json.loads((OBSERVABILITY / "dashboard.json").read_text())
    return list(dashboard["panels"])


def queries() -> Iterator[str]:
    """What the dashboard asks, with its variables filled in."""
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"].replace("$instance", ".+").replace("$__rate_interval", "5m")


def test_every_figure_has_a_colour_that_means_something() -> None:
    figures = [panel for panel in panels() if panel["type"] == "stat"]
    assert figures
    for panel in figures:
        shown = panel["fieldConfig"]["defaults"]
        colours = {step["color"] for step in shown["thresholds"]["steps"]}
        assert len(colours) > 1 or colours == {"text"}, panel["title"]
        assert panel["description"], panel["title"]


def test_yes_and_no_are_words_not_numbers() -> None:
    for title in ("Service", "libvirt and registry"):
        (panel,) = [each for each in panels() if each["title"] == title]
        (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
        assert {key: each["color"] for key, each in mapping["options"].items()} == {
            "0": "red",
            "1": "green",
        }


@needs_promtool
def test_no_panel_is_empty_where_nothing_is_registered(scraped: Scraped, tmp_path: Path) -> None:
    scrape = [
        {"series": f"{name}{_labels(dict(labels))}", "values": f"{value:g}x20"}
        for (name, labels), value in samples(scraped.text()).items()
    ]
    assert scrape
    _expect_answers(list(queries()), scrape, tmp_path)


@needs_promtool
def test_no_panel_is_empty_where_no_service_was_ever_scraped(tmp_path: Path) -> None:
    _expect_answers(list(queries()), [], tmp_path)


def _labels(labels: dict[str, str]) -> str:
    named = {**labels, "instance": "gpu1", "job": "hypeman-libvirt"}
    return "{" + ", ".join(f"{key}={json.dumps(value)}" for key, value in named.items()) + "}"


def _expect_answers(asked: list[str], series: list[dict[str, str]], directory: Path) -> None:
    tests = [{"expr": f"absent({query})", "eval_time": "15m", "exp_samples": []} for query in asked]
    file = directory / "dashboard_test.yaml"
    content = {"interval": "1m", "input_series": series, "promql_expr_test": tests}
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": [content]}))
    done = promtool(["test", "rules", str(file)])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", ["alerts.yaml", "dashboard.json"])
def test_only_metrics_that_exist_are_asked_for(scraped: Scraped, file: str) -> None:
    scraped.send("POST", "/devices", pci_address="0000:a2:00.0", name="l4-gpu")
    scraped.send("POST", "/devices/l4-gpu/bind")
    scraped.metrics.observe_call("detachFlags", 0.5, 55)
    scraped.metrics.watch_log(lambda: 0)
    text = scraped.text()
    existing = {name for name, _ in samples(text)}
    existing |= {family.name for family in text_string_to_metric_families(text)}
    asked = set(re.findall(r"\bhypeman_libvirt_(?!hub_)\w+", (OBSERVABILITY / file).read_text()))
    assert asked
    assert asked <= existing


@needs_promtool
def test_promtool_accepts_the_rules_and_they_fire_when_they_should() -> None:
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        done = promtool(command)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_accepts_a_scrape(scraped: Scraped) -> None:
    scraped.send("POST", "/devices", pci_address="0000:a2:00.0", name="l4-gpu")
    done = promtool(["check", "metrics"], scraped.text())
    assert done.returncode == 0, done.stdout + done.stderr


def promtool(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run(  # noqa: S603 - a tool of this machine
        [PROMTOOL, *command],
        input=text,
        cwd=OBSERVABILITY,
        capture_output=True,
        text=True,
        check=False,
    )
