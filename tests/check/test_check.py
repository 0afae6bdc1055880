"""contrib/check: what it counts, what it says, and that it leaves nothing running."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import machine
import pytest
from hypeman_check import needs, report
from hypeman_check.plan import PYTHONS, plan_all, plan_quick
from hypeman_check.running import Runner, Where, progress

JUNIT = """<testsuites><testsuite tests="5" failures="1" errors="0" skipped="2">
<testcase><skipped message="needs Node"/></testcase>
<testcase><skipped message="needs Node"/></testcase>
</testsuite></testsuites>"""


class Checked:
    """Checks that are scripts of Python, and what was said of them."""

    def __init__(self, directory: Path, **scripts: str) -> None:
        self.said: list[str] = []
        self.runner = Runner(
            lambda name: [sys.executable, "-c", scripts[name]],
            lambda _: {},
            Where(directory / "log", directory / "junit"),
            self.said.append,
        )
        self.names = list(scripts)

    def run(self) -> list[report.Result]:
        return self.runner.run(self.names, at_once=2)


def test_tests_are_counted_with_the_reason_of_each_that_was_skipped(tmp_path: Path) -> None:
    (tmp_path / "npm.xml").write_text(JUNIT)
    result = report.read_result("npm", 1, 3.0, "", tmp_path)
    assert (result.passed, result.failed, result.skipped) == (2, 1, 2)
    assert report.left_out([result]) == ["2 of npm: needs Node"]


def test_a_suite_that_breaks_without_a_failed_test_has_failed(tmp_path: Path) -> None:
    assert report.read_result("lint", 1, 1.0, "", tmp_path).failed == 1
    (tmp_path / "lint.xml").write_text(JUNIT.replace('failures="1"', 'failures="0"'))
    assert report.read_result("lint", 3, 1.0, "", tmp_path).failed == 1


def test_a_part_that_was_skipped_is_said(tmp_path: Path) -> None:
    result = report.read_result("audit", 0, 1.0, "bandit\nskipped: no network\n", tmp_path)
    assert (result.passed, result.skipped) == (1, 1)
    assert report.left_out([result]) == ["1 of audit: no network"]


def test_the_table_and_the_last_line_add_up() -> None:
    results = [
        report.Result("lint", 1, 0, 0, 2.4, Counter()),
        report.Result("py311-mock", 10, 2, 3, 60.0, Counter(x=3)),
    ]
    rows = [line.split() for line in report.table(results).splitlines()]
    assert rows[1:] == [["lint", "1", "0", "0", "2"], ["py311-mock", "10", "2", "3", "60"]]
    assert report.summary(results) == "11 passed, 2 failed, 3 skipped"


def test_what_checks_print_is_kept_and_a_failure_is_shown(tmp_path: Path) -> None:
    checked = Checked(tmp_path, good="print('fine')", bad="raise SystemExit('broken')")
    good, bad = checked.run()
    assert (good.name, good.failed, bad.name, bad.failed) == ("good", 0, "bad", 1)
    assert "broken" in "\n".join(checked.said)
    assert "fine" not in "\n".join(checked.said)
    assert (tmp_path / "log" / "good.txt").read_text() == "fine\n"


def test_a_check_that_cannot_start_ends_the_others(tmp_path: Path) -> None:
    checked = Checked(tmp_path, waits="import signal; signal.pause()")
    checked.names.append("unknown")
    with pytest.raises(KeyError):
        checked.run()


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("py311-mock: install_deps> python", "is being installed"),
        ("types: commands[0]> mypy\n", "runs"),
        ("mock: commands[0]> pytest\n.... [ 67/1437]\n.... [134/1437]\n", "134 of 1437 tests"),
    ],
)
def test_progress_is_read_from_the_log(printed: str, said: str) -> None:
    assert progress(printed) == said


def test_what_is_left_out_says_how_to_have_it() -> None:
    all_of_it = plan_all(["3.13"])
    assert "py313-mock" in all_of_it.checks
    assert len(all_of_it.left_out) == len(PYTHONS) - 1
    assert "py311-mock, py311-testdriver: no Python 3.11" in all_of_it.left_out[0]
    quick = plan_quick(["3.11", "3.12"], cores=4)
    assert (quick.at_once, all_of_it.at_once) == (4, 1)
    line, fewer = quick.left_out
    assert fewer.startswith("coverage of py311-mock")
    named = set(line.partition(":")[0].split(", "))
    assert named == {*plan_all(["3.11", "3.12"]).checks, "coverage"} - set(quick.checks)


def test_what_cannot_be_brought_is_left_out_with_the_line_that_brings_it(tmp_path: Path) -> None:
    def refuse(packages: object) -> None:
        raise OSError(f"no right to install {packages}")

    absent = needs.Need("promise", ["promised"], "a suite", lambda: False)
    present = needs.Need("air", ["air"], "all", lambda: True)
    reasons = needs.bring([absent, present], tmp_path, refuse, lambda: None)
    assert needs.say_left_out([absent, present], reasons) == [
        "a suite: no promise (no right to install ['promised']); apt-get install promised brings it"
    ]


def install_apt(directory: Path) -> None:
    """Put an apt-get there that knows a package once it was updated, and a dpkg-deb."""
    apt = """#!/bin/sh
        test -e "$(dirname "$0")/lists" || { echo "E: Unable to locate promised"; exit 100; }
        touch promised_1.0_all.deb"""
    for name, script in (("apt-get", apt), ("dpkg-deb", "#!/bin/sh\ntouch brought\n")):
        (directory / name).write_text(script)
        (directory / name).chmod(0o755)


def test_package_lists_that_are_empty_are_updated_before_it_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, tools = tmp_path / "bin", tmp_path / "tools"
    programs.mkdir()
    install_apt(programs)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    promised = needs.Need("promise", ["promised"], "a suite", (tools / "brought").exists, True)
    updates: list[str] = []

    def update() -> None:
        (programs / "lists").touch()
        updates.append("update")

    for _ in range(2):
        assert needs.bring([promised], tools, lambda _: None, update) == {}
    assert updates == ["update"]


def test_package_lists_that_cannot_be_updated_are_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_apt(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def update() -> None:
        raise OSError("you are not root, and there is no sudo")

    promised = needs.Need("promise", ["promised"], "a suite", lambda: False, True)
    reasons = needs.bring([promised], tmp_path / "tools", lambda _: None, update)
    assert reasons == {"promise": "you are not root, and there is no sudo"}


@pytest.mark.parametrize("what", ["file", "link", "directory"])
def test_what_stands_in_the_place_of_the_environment_makes_room(tmp_path: Path, what: str) -> None:
    """A file that says where the environment is, as PEP 832 proposes, is one of these."""
    place, elsewhere = tmp_path / ".venv", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").touch()
    if what == "file":
        place.write_text(str(elsewhere))
    elif what == "link":
        place.symlink_to(elsewhere)
    else:
        (place / "lib").mkdir(parents=True)
    machine.clear_place(place)
    assert not place.exists()
    assert not place.is_symlink()
    assert (elsewhere / "mine").exists()
