"""The units of the root helper: where it listens, for whom, and how it is confined."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from hypeman_libvirt.defaults import HELPER_SOCKET
from hypeman_libvirt.helper.boot_rules import RULES
from tests.packaging.test_unit import CONTRIB, settings_of, systemd_analyze, unit

__all__ = ["systemd_analyze", "unit"]  # fixtures

SYSTEMD: Final = CONTRIB / "systemd"
HELPER: Final = SYSTEMD / "hypeman-libvirt-helper.service"
SOCKET: Final = SYSTEMD / "hypeman-libvirt-helper.socket"
BOOT: Final = SYSTEMD / "hypeman-libvirt-boot.service"
MOST_EXPOSED: Final = 3.0
"""It is root, of two capabilities; ``unit`` is not."""


def test_it_listens_where_the_service_asks_and_for_the_service_alone(
    unit: dict[str, list[str]],
) -> None:
    socket = settings_of(SOCKET.read_text())
    assert socket["ListenStream"] == [str(HELPER_SOCKET)]
    assert socket["SocketUser"] == ["root"]
    assert socket["SocketGroup"] == unit["Group"]
    assert socket["SocketMode"] == ["0660"]
    assert SOCKET.name in unit["Wants"]


def test_it_may_write_what_its_verbs_write() -> None:
    (writable,) = settings_of(HELPER.read_text())["ReadWritePaths"]
    assert writable.split() == ["/sys/devices", f"-/{RULES.parent}"]


@pytest.mark.parametrize("file", [HELPER, BOOT, SYSTEMD / "hypeman-libvirt-initramfs.service"])
def test_systemd_understands_the_units(systemd_analyze: str, file: Path, tmp_path: Path) -> None:
    copy = tmp_path / file.name
    program = r"^ExecStart=\S+"
    copy.write_text(re.sub(program, "ExecStart=/bin/true", file.read_text(), flags=re.MULTILINE))
    (tmp_path / SOCKET.name).write_text(SOCKET.read_text())
    done = subprocess.run(  # noqa: S603  # systemd's own checker
        [systemd_analyze, "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if "hypeman" in line] == []


def test_it_is_confined(systemd_analyze: str) -> None:
    done = subprocess.run(  # noqa: S603  # systemd's own checker
        [systemd_analyze, "security", "--offline=true", "--no-pager", HELPER],
        capture_output=True,
        text=True,
        check=True,
    )
    (figure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(figure) <= MOST_EXPOSED


def test_domains_that_start_by_themselves_wait_for_the_boot_rules() -> None:
    boot = settings_of(BOOT.read_text())
    before = {unit for line in boot["Before"] for unit in line.split()}
    assert {"libvirtd.service", "virtqemud.service", "nvidia-persistenced.service"} <= before
    assert boot["ConditionPathExists"] == [f"/{RULES}"]


def test_the_initramfs_follows_the_rules() -> None:
    path = settings_of((SYSTEMD / "hypeman-libvirt-initramfs.path").read_text())
    assert path["PathChanged"] == [f"/{RULES}"]
    assert f"/{RULES}" in (CONTRIB / "initramfs" / "hypeman-libvirt").read_text()
