"""What the kernel shows of a card's identity."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.host.local_markings import LocalMarkings, serial_in

PATH = "/sys/devices/pci0000:00/0000:00:08.0/0000:02:00.0"
NODE = NodeDevice("pci_0000_02_00_0", PciAddress(0, 2, 0, 0), "10de", "2330", path=PATH)
KERNEL = "6.1.0-18-amd64"


def config_space(*capabilities: tuple[int, bytes], ids: bytes = b"\xde\x10\x30\x23") -> bytes:
    """Lay out config space with these extended capabilities, one after the other."""
    config = bytearray(4096)
    config[:4] = ids
    for number, (capability, body) in enumerate(capabilities):
        offset = 0x100 + 0x40 * number
        following = offset + 0x40 if number + 1 < len(capabilities) else 0
        struct.pack_into("<I", config, offset, capability | 1 << 16 | following << 20)
        config[offset + 4 : offset + 4 + len(body)] = body
    return bytes(config)


SERIAL = (0x0003, bytes.fromhex("563412ffff6aeae8"))
AER = (0x0001, b"")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / PATH.lstrip("/")
    directory.mkdir(parents=True)
    facts = {
        "vendor": "0x10de\n",
        "device": "0x2330\n",
        "subsystem_vendor": "0x1028\n",
        "subsystem_device": "0x16c1\n",
    }
    for name, text in facts.items():
        (directory / name).write_text(text)
    (directory / "config").write_bytes(config_space(AER, SERIAL))
    boot_id = tmp_path / "proc/sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text("826c7a8a-5986-44b5-ac5a-687488b7671e\n")
    return tmp_path


def test_what_the_kernel_shows(root: Path) -> None:
    node = LocalMarkings(root, KERNEL).complete(NODE)
    assert node.subsystem == "1028:16c1"
    assert node.device_serial == "e8-ea-6a-ff-ff-12-34-56"
    assert node.incarnation is not None
    assert node.incarnation.startswith("826c7a8a-5986-44b5-ac5a-687488b7671e:")


def test_a_device_that_the_kernel_found_anew_has_another_incarnation(root: Path) -> None:
    markings = LocalMarkings(root, KERNEL)
    before = markings.complete(NODE).incarnation
    directory = root / PATH.lstrip("/")
    directory.rename(directory.with_name("removed"))
    directory.mkdir()
    for name in ("vendor", "device"):
        (directory / name).write_text((directory.with_name("removed") / name).read_text())
    assert markings.complete(NODE).incarnation not in {before, None}


def test_who_is_not_root_reads_no_serial(root: Path) -> None:
    config = root / PATH.lstrip("/") / "config"
    config.write_bytes(config.read_bytes()[:64])
    node = LocalMarkings(root, KERNEL).complete(NODE)
    assert (node.device_serial, node.subsystem) == (None, "1028:16c1")


def test_a_card_that_does_not_answer_is_asked_again(root: Path) -> None:
    config = root / PATH.lstrip("/") / "config"
    answer = config.read_bytes()
    markings = LocalMarkings(root, KERNEL)
    config.write_bytes(b"\xff" * 4096)
    assert markings.complete(NODE).device_serial is None
    config.write_bytes(answer)
    assert markings.complete(NODE).device_serial == "e8-ea-6a-ff-ff-12-34-56"


def test_a_device_of_another_host_is_left_as_it_is(root: Path) -> None:
    (root / PATH.lstrip("/") / "device").write_text("0x9999\n")
    assert LocalMarkings(root, KERNEL).complete(NODE) == NODE


def test_an_old_kernel_gives_numbers_twice(root: Path) -> None:
    assert LocalMarkings(root, "4.19.0").complete(NODE).incarnation is None


@pytest.mark.parametrize(
    "config",
    [
        config_space(AER),
        config_space(),
        config_space()[:256],
        config_space()[:64],
        # A capability that points at itself.
        config_space()[:0x100] + struct.pack("<I", 0x0001 | 1 << 16 | 0x100 << 20) + bytes(60),
    ],
)
def test_config_space_without_a_serial_number(config: bytes) -> None:
    assert serial_in(config) is None
