"""The systemd unit: what it starts, whom it trusts, how it is confined."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import Final

import pytest

from hypeman_libvirt.bootstrap import count_threads
from hypeman_libvirt.settings import Settings, load_settings

CONTRIB: Final = Path(__file__).parent.parent.parent / "contrib"
UNIT: Final = CONTRIB / "systemd" / "hypeman-libvirt.service"
UNITS: Final = (UNIT, UNIT.with_name("hypeman-libvirt-hub.service"))
MOST_EXPOSED: Final = 2.0
SECONDS_TO_ANSWER: Final = 5.0
_NAME: Final = "hypeman-libvirt"


def settings_of(unit: str) -> dict[str, list[str]]:
    """Read a unit file: the values of each setting, in their order."""
    lines = [line for line in unit.splitlines() if line and line[0] not in "#;["]
    found: dict[str, list[str]] = {}
    for line in lines:
        name, separator, value = line.partition("=")
        assert separator, f"{line!r} is no setting"
        found.setdefault(name, []).append(value)
    return found


@pytest.fixture(scope="module")
def unit() -> dict[str, list[str]]:
    return settings_of(UNIT.read_text())


@pytest.fixture(scope="module")
def systemd_analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze on this machine")
    return program


def test_the_registry_lies_in_the_units_state_directory(unit: dict[str, list[str]]) -> None:
    (directory,) = unit["StateDirectory"]
    settings = load_settings(CONTRIB / "config" / "config.toml")
    assert PurePosixPath(settings.registry_location).parent == PurePosixPath("/var/lib", directory)


def test_the_unit_hands_over_the_secret_by_the_name_that_the_service_looks_for(
    unit: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, source = unit["LoadCredential"][0].partition(":")
    (tmp_path / name).write_text("s" * 64 + "\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.delenv("JWT_SECRET", raising=False)
    assert Settings().secret() == "s" * 64
    assert source in (CONTRIB / "packaging" / "debian" / "hypeman-libvirt.postinst").read_text()


def test_an_operation_that_runs_may_finish_before_systemd_kills_it(
    unit: dict[str, list[str]],
) -> None:
    longest = Settings().operation_timeout + SECONDS_TO_ANSWER
    assert float(unit["TimeoutStopSec"][0]) > longest


def test_memory_and_threads_are_bounded_above_what_the_settings_allow(
    unit: dict[str, list[str]],
) -> None:
    assert unit["MemoryMax"] == ["1G"]
    changes = 2 * Settings().operations  # each has a thread that waits, and one of its own
    assert int(unit["TasksMax"][0]) > 2 * (count_threads(Settings()) + changes)


def test_no_core_is_dumped_with_the_secret_in_it(unit: dict[str, list[str]]) -> None:
    assert unit["LimitCORE"] == ["0"]


def test_the_user_is_the_same_everywhere(unit: dict[str, list[str]]) -> None:
    (rule,) = (CONTRIB / "polkit").iterdir()
    created = (CONTRIB / "systemd" / "hypeman-libvirt.sysusers").read_text().split()[1]
    (directory,) = re.findall(
        r"^d (.*)$", (CONTRIB / "systemd" / "hypeman-libvirt.tmpfiles").read_text(), re.MULTILINE
    )
    assert {*unit["User"], *unit["Group"], created} == {_NAME}
    assert directory.split() == [
        f"/var/lib/{unit['StateDirectory'][0]}",
        unit["StateDirectoryMode"][0],
        _NAME,
        _NAME,
        "-",
    ]
    assert f'subject.user != "{_NAME}"' in rule.read_text()


def test_what_root_left_in_the_registrys_directory_goes_to_the_service(
    unit: dict[str, list[str]],
) -> None:
    tmpfiles = (CONTRIB / "systemd" / "hypeman-libvirt.tmpfiles").read_text()
    (taken_over,) = re.findall(r"^Z (.*)$", tmpfiles, re.MULTILINE)
    assert taken_over.split() == [f"/var/lib/{unit['StateDirectory'][0]}", "-", _NAME, _NAME, "-"]


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.stem)
def test_systemd_understands_the_unit(systemd_analyze: str, tmp_path: Path, file: Path) -> None:
    started = file.read_text().replace("/usr/bin/hypeman-libvirt", "/bin/true")
    copy = tmp_path / file.name
    copy.write_text(started)
    done = subprocess.run(  # noqa: S603  # systemd's own checker
        [systemd_analyze, "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    about_the_unit = [line for line in done.stderr.splitlines() if file.name in line]
    assert (done.returncode, about_the_unit) == (0, [])


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.stem)
def test_the_unit_is_confined(systemd_analyze: str, file: Path) -> None:
    done = subprocess.run(  # noqa: S603  # systemd's own checker
        [systemd_analyze, "security", "--offline=true", "--no-pager", file],
        capture_output=True,
        text=True,
        check=True,
    )
    (figure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(figure) <= MOST_EXPOSED


@pytest.mark.parametrize("setting", ["PrivateDevices", "ProcSubset", "PrivateNetwork", "RootImage"])
def test_nothing_hides_the_host_that_the_checks_look_at(
    unit: dict[str, list[str]], setting: str
) -> None:
    assert setting not in unit
    assert unit["ProtectHome"] == ["read-only"]
