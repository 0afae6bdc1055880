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
    write(tmp_path, "sys/class/dmi/id/product_uuid", "9C1D2E3F-5A6B-4C7D-8E9F-0A1B2C3D4E5F\n")
    for number in "012":
        (tmp_path / "sys/kernel/iommu_groups" / number).mkdir(parents=True)
    (tmp_path / "sys/bus/pci/drivers/vfio-pci").mkdir(parents=True)
    machine = read_machine(tmp_path)
    assert (machine.iommu_table, machine.groups, machine.vfio) == ("DMAR", 3, "loaded")
    assert "intel_iommu=on" in machine.command_line
    assert machine.firmware_uuid == "9c1d2e3f-5a6b-4c7d-8e9f-0a1b2c3d4e5f"
    assert not machine.uuid_chosen


def test_a_machine_that_shows_nothing(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert (machine.socket, machine.iommu_table, machine.groups) == ("missing", None, 0)
    assert (machine.vfio, machine.firmware_uuid) == ("missing", "")


@pytest.mark.parametrize("index", ["modules.dep", "modules.builtin"])
def test_a_module_that_is_not_loaded_yet_is_loadable(tmp_path: Path, index: str) -> None:
    write(tmp_path, "proc/sys/kernel/osrelease", "6.1.0-44-amd64\n")
    module = "kernel/drivers/vfio/pci/vfio-pci.ko:\n"
    write(tmp_path, f"lib/modules/6.1.0-44-amd64/{index}", module)
    assert read_machine(tmp_path).vfio == "loadable"


def test_a_uuid_of_equal_digits_is_none(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/dmi/id/product_uuid", "00000000-0000-0000-0000-000000000000\n")
    assert read_machine(tmp_path).firmware_uuid == ""


@pytest.mark.parametrize(
    ("line", "chosen"),
    [
        ('host_uuid_source = "machine-id"', True),
        ('host_uuid = "2f1c5a3e-8f7e-4a53-9f3c-0d6c7f6b7a10"', True),
        ('#host_uuid_source = "machine-id"', False),
        ('host_uuid_source = "smbios"', False),
    ],
)
def test_whether_libvirts_configuration_chooses_the_uuid(
    tmp_path: Path, line: str, chosen: bool
) -> None:
    write(tmp_path, "etc/libvirt/virtqemud.conf", f"max_clients = 50\n{line}\n")
    assert read_machine(tmp_path).uuid_chosen is chosen


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
