"""Whether a device answers, from what the kernel shows of its config space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.host.local_hardware import LocalHardware

PATH = "/sys/devices/pci0000:00/0000:00:08.0/0000:02:00.0"
NODE = NodeDevice("pci_0000_02_00_0", PciAddress(0, 2, 0, 0), "10de", "2330", path=PATH)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / PATH.lstrip("/")
    directory.mkdir(parents=True)
    (directory / "vendor").write_text("0x10de\n")
    return directory


@pytest.mark.parametrize(
    ("config", "answers"),
    [
        (b"\xff" * 64, False),
        (b"\xff" * 4096, False),
        (b"\xff\xff\xff\xff" + bytes(60), True),  # a virtual function
        (b"\xde\x10\x30\x23" + bytes(60), True),
        (b"", None),
    ],
)
def test_all_ones_are_no_answer(
    tmp_path: Path, directory: Path, config: bytes, answers: bool | None
) -> None:
    (directory / "config").write_bytes(config)
    assert LocalHardware(tmp_path).answers(NODE) is answers


def test_what_is_not_this_hosts_is_unknown(tmp_path: Path, directory: Path) -> None:
    (directory / "config").write_bytes(b"\xff" * 64)
    hardware = LocalHardware(tmp_path)
    assert hardware.answers(replace(NODE, path=None)) is None
    assert hardware.answers(replace(NODE, vendor_id="8086")) is None
    assert hardware.answers(replace(NODE, path="/sys/devices/gone")) is None
    (directory / "config").unlink()
    assert hardware.answers(NODE) is None
