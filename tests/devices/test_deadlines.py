"""A libvirt call that hangs holds up its own device, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.devices.test_bind import ALONE, AUDIO, GPU, refusal, register
from tests.fake_host import FakeHost
from tests.world import OPERATOR, World, world_on

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost


@pytest.fixture
def world(libvirt_host: LibvirtHost, tmp_path: Path) -> Iterator[World]:
    """A service whose operations have next to no time."""
    with world_on(libvirt_host, tmp_path, deadline=0.3) as world:
        yield world


def test_a_bind_that_hangs_answers_timeout_then_busy_and_everything_else_goes_on(
    world: World, fake_host: FakeHost
) -> None:
    register(world, ALONE, "l4-gpu")
    register(world, GPU)
    with fake_host.hang("detachFlags") as hang:
        with refusal("timeout"):
            world.service.bind("l4-gpu", "device", OPERATOR)
        assert hang.entered.wait(10)
        with refusal("busy"):
            world.service.unbind("l4-gpu", "device", OPERATOR)
        assert world.service.inventory.get("l4-gpu").node is not None
        assert len(world.service.inventory.list_devices({})) == 2
        assert len(world.service.inventory.list_available()) == 4
        world.service.unbind(GPU, "group", OPERATOR)
    assert world.service.drain(30)
    assert fake_host.driver(ALONE) == "vfio-pci"


def test_a_group_is_busy_as_a_whole(world: World, fake_host: FakeHost) -> None:
    register(world, GPU)
    register(world, AUDIO)
    with fake_host.hang("detachFlags"):
        with refusal("timeout"):
            world.service.bind(GPU, "group", OPERATOR)
        with refusal("busy"):
            world.service.bind(AUDIO, "group", OPERATOR)
    assert world.service.drain(30)
    assert (fake_host.driver(GPU), fake_host.driver(AUDIO)) == ("vfio-pci", "vfio-pci")


def test_a_late_failure_is_still_undone(world: World, fake_host: FakeHost) -> None:
    register(world, GPU)
    fake_host.vfio_refuses(AUDIO)
    with fake_host.hang("detachFlags"), refusal("timeout"):
        world.service.bind(GPU, "group", OPERATOR)
    assert world.service.drain(30)
    assert (fake_host.driver(GPU), fake_host.driver(AUDIO)) == ("nvidia", "snd_hda_intel")
