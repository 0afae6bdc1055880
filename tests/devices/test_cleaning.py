"""The operator's program between two uses of a device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import HelperFailedError, OperationTimeoutError
from hypeman_libvirt.host.libvirt_host import LibvirtHost
from tests.fake_helper import FakeRootHelper
from tests.fake_host import FakeHost
from tests.world import OPERATOR, World, world_on

L4 = "0000:a2:00.0"
ADDRESS = PciAddress.parse(L4)


class HookedHelper(FakeRootHelper):
    """Its hook fails with these errors, one each time."""

    def __init__(self, host: FakeHost) -> None:
        super().__init__(host)
        self.failures: list[Exception] = []

    def run_release_hook(self, device: PciAddress) -> None:
        if self.failures:
            raise self.failures.pop()
        super().run_release_hook(device)


@pytest.fixture
def helper(fake_host: FakeHost) -> HookedHelper:
    return HookedHelper(fake_host)


@pytest.fixture
def world(libvirt_host: LibvirtHost, tmp_path: Path, helper: HookedHelper) -> Iterator[World]:
    with world_on(libvirt_host, tmp_path, helper=helper) as world:
        world.service.register(L4, "l4-gpu", {}, OPERATOR, require_clean=True)
        yield world


def reason(world: World) -> str | None:
    quarantine = world.service.inventory.get("l4-gpu").quarantine
    return quarantine.reason if quarantine else None


def test_the_program_runs_once_nobody_has_the_device(
    fake_host: FakeHost, world: World, helper: HookedHelper
) -> None:
    world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)
    assert world.service.clean() == []
    world.service.detach("l4-gpu", OPERATOR)
    assert reason(world) is not None
    assert world.service.clean() == [ADDRESS]
    assert helper.released == [ADDRESS]
    assert reason(world) is None
    assert world.service.clean() == []
    assert fake_host.driver(L4) == "nvidia"
    world.service.attach("l4-gpu", "vm-on", "device", OPERATOR)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (HelperFailedError("on_release ended with status 1"), "ended with status 1"),
        (OperationTimeoutError("on_release did not end within 300 s"), "within 300 s"),
    ],
)
def test_what_fails_is_left_to_the_operator(
    world: World, helper: HookedHelper, failure: Exception, said: str
) -> None:
    helper.failures = [failure]
    world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)
    world.service.detach("l4-gpu", OPERATOR)
    assert world.service.clean() == []
    assert "on_release failed" in (reason(world) or "")
    assert said in (reason(world) or "")
    assert world.service.clean() == []
    assert helper.released == []
    world.service.clear("l4-gpu", OPERATOR)
    assert reason(world) is None


def test_without_a_program_it_waits_for_the_operator(world: World, helper: HookedHelper) -> None:
    helper.missing = True
    world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)
    world.service.detach("l4-gpu", OPERATOR)
    assert world.service.clean() == []
    assert reason(world) == "domain vm-off has used it"


def test_while_an_operation_runs_it_does_not(world: World, helper: HookedHelper) -> None:
    world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)
    world.service.detach("l4-gpu", OPERATOR)
    with world.base.locks.hold([f"device {L4}"]):
        assert world.service.clean() == []
    assert helper.released == []
    assert world.service.clean() == [ADDRESS]


def test_a_service_that_follows_cleans_by_itself(
    fake_host: FakeHost, world: World, helper: HookedHelper
) -> None:
    world.service.start_following()
    world.service.attach("l4-gpu", "vm-on", "device", OPERATOR)
    fake_host.virsh_detach("vm-on", L4)
    fake_host.virsh_destroy("vm-on")
    while reason(world) is not None or not helper.released:
        continue
    assert helper.released == [ADDRESS]
