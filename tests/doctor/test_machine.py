"""What the doctor reads of a machine, from made-up trees."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from hypeman_libvirt.doctor.machine import read_machine


def write(root: Path, file: str, text: str = "") -> Path:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_host_for_passthrough(tmp_path: Path) -> None:
    write(tmp_path, "sys/firmware/acpi/tables/DMAR")
    write(tmp_path, "proc/cmdline", "BOOT_IMAGE=/vmlinuz intel_iommu=on quiet\n")
    for number in "012":
        (tmp_path / "sys/kernel/iommu_groups" / number).mkdir(parents=True)
    (tmp_path / "sys/bus/pci/drivers/vfio-pci").mkdir(parents=True)
    machine = read_machine(tmp_path)
    assert (machine.iommu_table, machine.groups, machine.vfio) == ("DMAR", 3, "loaded")
    assert "intel_iommu=on" in machine.command_line


def test_a_machine_that_shows_nothing(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert (machine.socket, machine.iommu_table, machine.groups) == ("missing", None, 0)
    assert machine.vfio == "missing"


@pytest.mark.parametrize("index", ["modules.dep", "modules.builtin"])
def test_a_module_that_is_not_loaded_yet_is_loadable(tmp_path: Path, index: str) -> None:
    write(tmp_path, "proc/sys/kernel/osrelease", "6.1.0-44-amd64\n")
    module = "kernel/drivers/vfio/pci/vfio-pci.ko:\n"
    write(tmp_path, f"lib/modules/6.1.0-44-amd64/{index}", module)
    assert read_machine(tmp_path).vfio == "loadable"


@pytest.mark.parametrize(
    ("there", "lost"), [("usr/bin/mdevctl", "/usr/sbin/mdevctl"), ("usr/sbin/mdevctl", None)]
)
def test_where_udevs_rule_looks_for_mdevctl(tmp_path: Path, there: str, lost: str | None) -> None:
    rule = 'SUBSYSTEM=="mdev_bus", ACTION=="add", TEST=="/etc/mdevctl.d/$kernel", RUN+='
    write(tmp_path, "usr/lib/udev/rules.d/60-mdevctl.rules", f'{rule}"/usr/sbin/mdevctl start"\n')
    write(tmp_path, there)
    assert read_machine(tmp_path).lost_mdevctl == lost


def test_a_machine_without_mdevctl_has_lost_none(tmp_path: Path) -> None:
    assert read_machine(tmp_path).lost_mdevctl is None


def test_sockets_that_answer_or_do_not(tmp_path: Path) -> None:
    directory = tmp_path / "run" / "libvirt"
    directory.mkdir(parents=True)
    here = os.getcwd()  # noqa: PTH109 - a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(directory)
        try:
            listener.bind("virtqemud-sock")
        finally:
            os.chdir(here)
        listener.listen()
        assert read_machine(tmp_path).socket == "answers"
    assert read_machine(tmp_path).socket == "silent"


@pytest.mark.parametrize(
    ("settings", "limited"),
    [
        ({}, None),
        ({"libvirtd.conf": '#access_drivers = [ "polkit" ]\n'}, False),
        ({"virtqemud.conf": 'access_drivers = [ "polkit" ]\n', "libvirtd.conf": "\n"}, True),
    ],
)
def test_whether_libvirt_asks_for_each_right(
    tmp_path: Path, settings: dict[str, str], limited: bool | None
) -> None:
    for name, text in settings.items():
        write(tmp_path, f"etc/libvirt/{name}", text)
    assert read_machine(tmp_path).limits_rights is limited
