"""A detach that libvirt has done ends whole, also where reading fails afterwards."""

from __future__ import annotations

import pytest

from hypeman_libvirt.devices.errors import DeviceError
from tests.devices.test_bind import ALONE, AUDIO, GPU, register
from tests.fake_host import FakeHost
from tests.fake_xml import held
from tests.world import OPERATOR, World

DENIED = 88


def fail_after_detach(host: FakeHost, call: str, times: int | None) -> None:
    """Refuse a call once the device is out of the domain."""

    def refuse(name: str) -> None:
        guest = host.guest("vm-on")
        if name == call and GPU not in {*held(guest.live), *held(guest.config)}:
            host.before_call = lambda _: None
            host.refuse(call, DENIED, times=times)

    host.before_call = refuse


@pytest.mark.parametrize("call", ["domainXMLDesc", "nodeDeviceLookupByName", "XMLDesc"])
def test_one_read_that_fails_leaves_nothing_half_done(
    world: World, fake_host: FakeHost, call: str
) -> None:
    register(world, GPU)
    world.service.attach(GPU, "vm-on", "group", OPERATOR)
    fail_after_detach(fake_host, call, times=1)
    assert world.service.detach(GPU, OPERATOR).assignment is None
    domain = world.host.find_domain("vm-on")
    assert domain is not None
    assert world.host.read_metadata(domain) == ()
    assert (fake_host.driver(GPU), fake_host.driver(AUDIO)) == ("nvidia", "snd_hda_intel")


def test_what_cannot_be_read_again_is_in_the_log(
    world: World, fake_host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    register(world, GPU)
    world.service.attach(GPU, "vm-on", "group", OPERATOR)
    fail_after_detach(fake_host, "nodeDeviceLookupByName", times=None)
    assert world.service.detach(GPU, OPERATOR).assignment is None
    assert f"{AUDIO} cannot be read after it was detached" in caplog.text


def test_a_detach_whose_end_nobody_can_see_is_in_the_log(
    world: World, fake_host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    register(world, GPU)
    world.service.attach(GPU, "vm-on", "group", OPERATOR)
    fail_after_detach(fake_host, "domainXMLDesc", times=None)
    with pytest.raises(DeviceError) as refused:
        world.service.detach(GPU, OPERATOR)
    assert refused.value.code == "libvirt_denied"
    assert "nobody knows whether vm-on has let go" in caplog.text


def test_a_device_that_no_host_driver_takes_back_is_in_the_log(
    world: World, fake_host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    fake_host.virsh_start("vm-off")
    fake_host.virsh_attach("vm-off", ALONE)
    register(world, ALONE)
    fake_host.driver_refuses(ALONE)
    world.service.detach(ALONE, OPERATOR)
    assert fake_host.driver(ALONE) is None
    assert f"{ALONE} has no driver after it was detached" in caplog.text
