"""``devices profiles`` and ``devices create-vgpu`` against a service that runs."""

from __future__ import annotations

import pytest

from tests.api.client import token
from tests.cli.test_devices_cli import Commands
from tests.cli.test_devices_cli import url as url  # noqa: PLC0414 - a fixture
from tests.devices.vgpus import LARGE, OTHER, SMALL, T4, add_gpus, make_by_hand
from tests.fake_host import FakeHost

UUID = "c2177883-f1bb-47f0-914d-32a22e3a8804"


@pytest.fixture
def commands(fake_host: FakeHost, url: str) -> Commands:
    add_gpus(fake_host)
    return Commands(url, token())


def test_profiles_are_a_table_of_gpus(commands: Commands) -> None:
    head, *rows = [line.split() for line in commands.lines("profiles")]
    assert head == ["PROFILE", "FRAMEBUFFER", "MB", "PCI", "ADDRESS", "GPU", "AVAILABLE"]
    assert rows[0] == ["GRID", "T4-1B", "1024", T4, "TU104GL", "[Tesla", "T4]", "16"]
    assert len(rows) == 4
    assert [each["name"] for each in commands.json("profiles")] == [SMALL, LARGE]


def test_without_profiles_the_command_says_what_that_needs(
    commands: Commands, fake_host: FakeHost
) -> None:
    for address in (T4, OTHER):
        fake_host.vanish(address)
    done = commands.run("profiles")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "no GPU of this host offers vGPU profiles" in done.stderr


def test_a_vgpu_is_made_and_deleted(commands: Commands, fake_host: FakeHost) -> None:
    made = ("create-vgpu", LARGE, "--parent", T4, "--name", "slice", "--tag", "team=ml")
    (line,) = commands.lines(*made, "--persist")
    assert line.startswith(f"created slice on {T4} (ID: id")
    (mdev,) = fake_host.mediated_devices()
    assert mdev.autostart
    assert ["persistent", "yes"] in [each.split() for each in commands.lines("get", "slice")]
    assert commands.lines("attach", "slice", "vm-on")[0].startswith("slice is attached to vm-on")
    assert "detach it there first" in commands.refusal("delete", "slice")
    commands.lines("detach", "slice")
    assert commands.lines("delete", "slice") == ["deleted slice"]
    assert fake_host.mediated_devices() == []


def test_advice_names_commands(commands: Commands) -> None:
    refusal = commands.refusal("create-vgpu", "A100-4C")
    assert "hypeman-libvirt devices profiles lists those that are offered" in refusal


def test_a_vgpu_of_others_is_registered_by_its_uuid(
    commands: Commands, fake_host: FakeHost
) -> None:
    make_by_hand(fake_host, UUID)
    assert any(f"nvidia-230 {UUID}" in line for line in commands.lines("available"))
    assert commands.json("register", UUID, "--name", "theirs")["mdev_uuid"] == UUID
