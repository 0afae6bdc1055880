"""An undo that libvirt does not let us finish is in the log, and takes back what it can."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hypeman_libvirt.devices.errors import DeviceError
from tests.devices.test_bind import ALONE, AUDIO, GPU, register
from tests.fake_host import FakeHost
from tests.fake_xml import held
from tests.world import OPERATOR, World

DENIED = 88


def down_after(host: FakeHost, happened: Callable[[], bool]) -> None:
    """Stop libvirt as soon as something has happened."""

    def stop(_: str) -> None:
        if happened():
            host.before_call = lambda _: None
            host.down()

    host.before_call = stop


def test_a_bind_whose_end_nobody_can_see_is_in_the_log(
    world: World, fake_host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    register(world, GPU)
    down_after(fake_host, lambda: fake_host.driver(AUDIO) == "vfio-pci")
    with pytest.raises(DeviceError):
        world.service.bind(GPU, "group", OPERATOR)
    assert f"could not give back {GPU}" in caplog.text
    assert f"could not give back {AUDIO}" in caplog.text


def test_an_unbind_whose_end_nobody_can_see_is_in_the_log(
    world: World, fake_host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    register(world, ALONE)
    world.service.bind(ALONE, "device", OPERATOR)
    down_after(fake_host, lambda: fake_host.driver(ALONE) == "nvidia")
    with pytest.raises(DeviceError):
        world.service.unbind(ALONE, "device", OPERATOR)
    assert f"could not bind again {ALONE}" in caplog.text


def test_a_half_detached_group_that_cannot_be_given_again_is_in_the_log(
    world: World, fake_host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    register(world, GPU)
    world.service.attach(GPU, "vm-on", "group", OPERATOR)
    guest = fake_host.guest("vm-on")
    down_after(fake_host, lambda: len(held(guest.live)) == 1)
    with pytest.raises(DeviceError):
        world.service.detach(GPU, OPERATOR)
    assert "the running domain of vm-on is not as it was before a failed change" in caplog.text


@pytest.mark.parametrize(("live", "reads"), [(True, 1), (False, 0)])
def test_what_a_domain_had_in_part_it_has_in_part_again(
    world: World, fake_host: FakeHost, *, live: bool, reads: int
) -> None:
    """``reads`` is how many still succeed once the domain has all of it."""
    register(world, ALONE)
    fake_host.virsh_attach("vm-on", ALONE, live=live, config=not live)
    guest = fake_host.guest("vm-on")
    before = held(guest.live), held(guest.config)

    def refuse(name: str) -> None:
        if name == "domainXMLDesc" and ALONE in held(guest.live) & held(guest.config):
            fake_host.before_call = lambda _: None
            fake_host.fail_after(name, reads, DENIED)

    fake_host.before_call = refuse
    with pytest.raises(DeviceError):
        world.service.attach(ALONE, "vm-on", "device", OPERATOR)
    assert (held(guest.live), held(guest.config)) == before
