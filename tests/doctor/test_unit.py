"""What doctor reads of the unit, from a systemd that tests make up."""

from __future__ import annotations

from collections.abc import Sequence

from hypeman_libvirt.doctor.unit import read_unit

SHOWN = """LoadState=loaded
ActiveState=activating
SubState=auto-restart
UnitFileState=enabled
NRestarts=12
ActiveExitTimestamp=
StateChangeTimestamp=Wed 2026-11-25 00:30:00 UTC
"""


class Systemd:
    """Answers systemctl and journalctl."""

    def __init__(self, shown: str | None, log: str = "") -> None:
        self._answers = {"systemctl": shown, "journalctl": log}

    def __call__(self, arguments: Sequence[str]) -> str | None:
        return self._answers[arguments[0]]


def test_a_unit_that_systemd_starts_again_and_again() -> None:
    unit = read_unit(Systemd(SHOWN, "hypeman-libvirt: no JWT secret\n"))
    assert unit is not None
    assert (unit.active, unit.detail, unit.enabled) == ("activating", "auto-restart", "enabled")
    assert (unit.restarts, unit.since) == (12, "Wed 2026-11-25 00:30:00 UTC")
    assert unit.last_line == "hypeman-libvirt: no JWT secret"


def test_a_log_that_this_user_may_not_read_is_empty() -> None:
    unit = read_unit(Systemd(SHOWN))
    assert unit is not None
    assert unit.last_line is None


def test_no_systemd_no_running_systemd_no_unit() -> None:
    for shown in (None, "", "LoadState=not-found\nActiveState=inactive\n"):
        assert read_unit(Systemd(shown)) is None
