"""An operation and the end of a registration, at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hypeman_libvirt.devices.errors import BusyError, NotFoundError
from tests.fake_host import FakeHost
from tests.world import OPERATOR, World, world_on

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost

GPU = "0000:a2:00.0"
A_WHILE = 300.0


@pytest.fixture
def world(libvirt_host: LibvirtHost, tmp_path: Path) -> Iterator[World]:
    with world_on(libvirt_host, tmp_path) as world:
        world.service.register(GPU, "l4-gpu", {}, OPERATOR)
        yield world


def test_a_device_that_is_being_attached_is_not_unregistered(
    world: World, fake_host: FakeHost
) -> None:
    hang = fake_host.hang("attachDeviceFlags")
    attaching = threading.Thread(
        target=lambda: world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)
    )
    attaching.start()
    assert hang.entered.wait(A_WHILE)
    with pytest.raises(BusyError):
        world.service.unregister("l4-gpu", OPERATOR)
    hang.release()
    attaching.join(A_WHILE)
    assert world.service.inventory.get("l4-gpu").assignment is not None


def test_a_device_that_was_unregistered_meanwhile_is_not_attached(
    world: World, fake_host: FakeHost
) -> None:
    """The look-up was before the end of the registration, the claim is after it."""
    hang = fake_host.hang("lookupByName")
    refused: list[BaseException] = []

    def attach() -> None:
        try:
            world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)
        except NotFoundError as error:
            refused.append(error)

    attaching = threading.Thread(target=attach)
    attaching.start()
    assert hang.entered.wait(A_WHILE)
    found = world.registry.find(world.host.key(), "l4-gpu")
    assert found is not None
    assert world.registry.remove(found.host, found.id)
    hang.release()
    attaching.join(A_WHILE)
    assert len(refused) == 1
    assert world.service.inventory.list_devices({}) == []
    assert fake_host.calls["attachDeviceFlags"] == 0
