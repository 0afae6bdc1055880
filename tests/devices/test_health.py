"""Devices that did not come back whole: quarantined, offered to nobody, and cleared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import (
    DeviceError,
    DriverNotBoundError,
    GuestDidNotReleaseError,
    InUseError,
    LibvirtFailedError,
    QuarantinedError,
    VfioUnavailableError,
)
from hypeman_libvirt.devices.model import Device, Event
from hypeman_libvirt.devices.quarantine import SILENT
from tests.fake_errors import INTERNAL
from tests.fake_host import FakeHost
from tests.world import OPERATOR, World, world_on

L4, GPU, AUDIO = "0000:a2:00.0", "0000:41:00.0", "0000:41:00.1"


def reason(world: World, name: str) -> str | None:
    """Return why a device is offered to nobody, as GET and the list of all say it."""
    one = world.service.inventory.get(name)
    (listed,) = [
        each for each in world.service.inventory.list_devices({}) if each.registration.name == name
    ]
    assert one.quarantine == listed.quarantine
    return one.quarantine.reason if one.quarantine else None


def offered(world: World, address: str) -> bool:
    (found,) = [
        each
        for each in world.service.inventory.list_available()
        if str(each.node.address) == address
    ]
    return found.quarantine is None


def no_host_driver(world: World, host: FakeHost) -> None:
    world.service.bind("l4-gpu", "device", OPERATOR)
    host.driver_refuses(L4)
    with pytest.raises(DriverNotBoundError):
        world.service.unbind("l4-gpu", "device", OPERATOR)


def no_way_back_from_a_failed_bind(world: World, host: FakeHost) -> None:
    host.vfio_refuses(L4)
    host.driver_refuses(L4)
    with pytest.raises(VfioUnavailableError):
        world.service.bind("l4-gpu", "device", OPERATOR)


def guest_that_keeps_it(world: World, host: FakeHost) -> None:
    world.service.attach("l4-gpu", "vm-on", "device", OPERATOR)
    host.guest_ignores_unplug("vm-on")
    with pytest.raises(GuestDidNotReleaseError):
        world.service.detach("l4-gpu", OPERATOR)


def guest_that_refuses(world: World, host: FakeHost) -> None:
    world.service.attach("l4-gpu", "vm-on", "device", OPERATOR)
    host.guest_refuses_unplug("vm-on")
    with pytest.raises(GuestDidNotReleaseError):
        world.service.detach("l4-gpu", OPERATOR)


def no_driver_after_the_guest(world: World, host: FakeHost) -> None:
    world.service.attach("l4-gpu", "vm-on", "device", OPERATOR)
    host.driver_refuses(L4)
    world.service.detach("l4-gpu", OPERATOR)


CAUSES: Final[dict[str, tuple[Callable[[World, FakeHost], None], str]]] = {
    "no host driver": (no_host_driver, "nvidia did not take it back"),
    "failed bind": (no_way_back_from_a_failed_bind, "after a failed bind its driver is none"),
    "guest keeps it": (guest_that_keeps_it, "the guest of vm-on did not let it go"),
    "guest refuses": (guest_that_refuses, "the guest of vm-on did not let it go"),
    "no driver": (no_driver_after_the_guest, "no host driver took it"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_what_does_not_come_back_whole_is_offered_to_nobody(
    fake_host: FakeHost, world: World, caplog: pytest.LogCaptureFixture, cause: str
) -> None:
    happen, why = CAUSES[cause]
    world.service.register(L4, "l4-gpu", {}, OPERATOR)
    happen(world, fake_host)
    assert why in (reason(world, "l4-gpu") or "")
    assert not offered(world, L4)
    assert f"{L4} is quarantined: " in caplog.text
    held = fake_host.guest("vm-on")
    if held.active:
        fake_host.guest_ignores_unplug("vm-on", ignores=False)
        fake_host.virsh_destroy("vm-on")
    fake_host.set_driver(L4, "nvidia")
    calls = fake_host.calls.copy()
    refusals: list[Callable[[], object]] = [
        lambda: world.service.bind("l4-gpu", "device", OPERATOR, force=True),
        lambda: world.service.attach("l4-gpu", "vm-off", "device", OPERATOR, force=True),
    ]
    for refused in refusals:
        with pytest.raises(QuarantinedError, match="is quarantined since 2025-01-15 10:00 UTC"):
            refused()
    made = fake_host.calls - calls
    assert {"detachFlags", "attachDeviceFlags", "setMetadata"}.isdisjoint(made)
    (health,) = [
        each for each in world.service.preflight.of_device("l4-gpu").checks if each.id == "health"
    ]
    assert health.severity == "error"
    cleared = world.service.clear("l4-gpu", OPERATOR)
    assert cleared.quarantine is None
    assert (reason(world, "l4-gpu"), offered(world, L4)) == (None, True)
    assert world.changes[-1].action == "clear"
    fake_host.pci(L4).refused_by_vfio = False
    world.service.bind("l4-gpu", "device", OPERATOR)


def test_a_bind_that_was_undone_quarantines_nothing(fake_host: FakeHost, world: World) -> None:
    world.service.register(L4, "l4-gpu", {}, OPERATOR)
    fake_host.vfio_refuses(L4)
    with pytest.raises(VfioUnavailableError):
        world.service.bind("l4-gpu", "device", OPERATOR)
    assert fake_host.driver(L4) == "nvidia"
    assert reason(world, "l4-gpu") is None


def test_a_member_that_nobody_registered_is_cleared_with_its_card(
    fake_host: FakeHost, world: World
) -> None:
    world.service.register(GPU, "rtx", {}, OPERATOR)
    world.service.bind("rtx", "group", OPERATOR)
    fake_host.driver_refuses(AUDIO)
    with pytest.raises(DriverNotBoundError):
        world.service.unbind("rtx", "group", OPERATOR)
    assert reason(world, "rtx") is None
    assert not offered(world, AUDIO)
    fake_host.set_driver(GPU, "nvidia")
    with pytest.raises(QuarantinedError, match=AUDIO):
        world.service.bind("rtx", "group", OPERATOR)
    world.service.clear("rtx", OPERATOR)
    assert offered(world, AUDIO)


def test_another_registration_of_the_group_is_cleared_by_its_own_name(
    fake_host: FakeHost, world: World
) -> None:
    world.service.register(GPU, "rtx", {}, OPERATOR)
    world.service.register(AUDIO, "audio", {}, OPERATOR)
    world.service.bind("rtx", "group", OPERATOR)
    fake_host.driver_refuses(AUDIO)
    with pytest.raises(DriverNotBoundError):
        world.service.unbind("rtx", "group", OPERATOR)
    world.service.clear("rtx", OPERATOR)
    assert not offered(world, AUDIO)
    world.service.clear("audio", OPERATOR)
    assert offered(world, AUDIO)


def test_clear_is_refused_while_the_guest_still_has_it(fake_host: FakeHost, world: World) -> None:
    world.service.register(L4, "l4-gpu", {}, OPERATOR)
    guest_that_keeps_it(world, fake_host)
    with pytest.raises(InUseError, match="vm-on"):
        world.service.clear("l4-gpu", OPERATOR)
    assert reason(world, "l4-gpu") is not None
    fake_host.guest_ignores_unplug("vm-on", ignores=False)
    world.service.detach("l4-gpu", OPERATOR)
    assert reason(world, "l4-gpu") is not None
    world.service.clear("l4-gpu", OPERATOR)


def test_clear_is_refused_without_a_driver(fake_host: FakeHost, world: World) -> None:
    world.service.register(L4, "l4-gpu", {}, OPERATOR)
    no_driver_after_the_guest(world, fake_host)
    with pytest.raises(DriverNotBoundError, match="was on nvidia"):
        world.service.clear("l4-gpu", OPERATOR)


def test_what_is_well_is_cleared_without_a_word(world: World) -> None:
    world.service.register(L4, "l4-gpu", {}, OPERATOR)
    assert world.service.clear("l4-gpu", OPERATOR).quarantine is None


def test_a_quarantine_outlives_the_service_and_goes_with_its_card(
    fake_host: FakeHost, world: World
) -> None:
    fake_host.add_pci("0000:51:00.0", product="2684", driver="nvidia", group=51, serial="SN-0001")
    world.service.register("0000:51:00.0", "left", {}, OPERATOR)
    world.service.bind("left", "device", OPERATOR)
    fake_host.driver_refuses("0000:51:00.0")
    with pytest.raises(DriverNotBoundError):
        world.service.unbind("left", "device", OPERATOR)
    fake_host.vanish("pci_0000_51_00_0")
    fake_host.add_pci("0000:52:00.0", product="2684", driver="nvidia", group=52, serial="SN-0001")
    world.service.follow()
    assert reason(world, "left") == "nvidia did not take it back"
    key = world.host.key()
    assert [str(each) for each in world.registry.list_quarantines(key)] == ["0000:52:00.0"]
    world.registry.adopt(key, "another")
    assert list(world.registry.list_quarantines(key)) == []
    assert len(world.registry.list_quarantines("another")) == 1


def test_events_say_when_it_begins_and_ends(fake_host: FakeHost, world: World) -> None:
    world.service.register(L4, "l4-gpu", {}, OPERATOR)
    with world.service.event_feed.listen(None) as events:
        no_host_driver(world, fake_host)
        world.service.clear("l4-gpu", OPERATOR)
        seen = types(events)
    assert [each for each in seen if each in {"quarantined", "cleared"}] == [
        "quarantined",
        "cleared",
    ]


def types(events: Iterator[Event | None]) -> list[str]:
    seen: list[str] = []
    while (event := next(events)) is not None:
        seen.append(event.type)
    return seen


# -- require_clean


def strict(world: World, address: str = L4, name: str = "l4-gpu") -> Device:
    return world.service.register(address, name, {}, OPERATOR, require_clean=True)


@pytest.mark.parametrize("domain", ["vm-on", "vm-off"])
def test_after_a_use_it_has_to_be_cleared(world: World, domain: str) -> None:
    strict(world)
    attached = world.service.attach("l4-gpu", domain, "device", OPERATOR)
    assert attached.quarantine is None
    assert reason(world, "l4-gpu") is None
    detached = world.service.detach("l4-gpu", OPERATOR)
    assert detached.quarantine is not None
    assert reason(world, "l4-gpu") == f"domain {domain} has used it"
    with pytest.raises(QuarantinedError, match=f"domain {domain} has used it"):
        world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)
    world.service.clear("l4-gpu", OPERATOR)
    world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)


def test_the_domain_that_has_it_gets_the_rest_of_the_group(world: World) -> None:
    strict(world, GPU, "rtx")
    world.service.bind("rtx", "group", OPERATOR)
    world.service.attach("rtx", "vm-off", "device", OPERATOR)
    world.service.attach("rtx", "vm-off", "group", OPERATOR)
    assert reason(world, "rtx") is None


def test_a_use_that_virsh_began_and_ended_counts_as_well(fake_host: FakeHost, world: World) -> None:
    strict(world)
    fake_host.virsh_attach("vm-on", L4, config=False)
    world.service.follow()
    assert reason(world, "l4-gpu") is None
    fake_host.virsh_destroy("vm-on")
    assert reason(world, "l4-gpu") == "domain vm-on has used it"


def test_a_use_that_ends_without_the_service_counts_as_well(
    fake_host: FakeHost, world: World, tmp_path: Path
) -> None:
    strict(world)
    world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)
    world.service.close()
    fake_host.virsh_undefine("vm-off")
    with world_on(world.host, tmp_path) as again:
        assert reason(again, "l4-gpu") == "domain vm-off has used it"


def test_an_attach_that_fails_is_no_use(fake_host: FakeHost, world: World) -> None:
    strict(world)
    fake_host.refuse("attachDeviceFlags", INTERNAL)
    with pytest.raises(LibvirtFailedError):
        world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)
    assert reason(world, "l4-gpu") is None


# -- config space


@pytest.fixture
def sysfs(fake_host: FakeHost, tmp_path: Path) -> Iterator[tuple[World, Path]]:
    """A service on the host itself, and the L4's directory in sysfs."""
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415
    from hypeman_libvirt.host.usage.local_host import LocalHost  # noqa: PLC0415

    root = tmp_path / "root"
    directory = root / f"sys/devices/pci{L4[:-5]}/{L4}"
    directory.mkdir(parents=True)
    (directory / "vendor").write_text("0x10de\n")
    (directory / "device").write_text("0x27b8\n")
    (directory / "config").write_bytes(b"\xde\x10" + bytes(62))
    host = open_host(fake_host.uri, local_host=LocalHost(root))
    with world_on(host, tmp_path) as world:
        yield world, directory
    host.close()


def test_a_device_that_reads_all_ones_is_quarantined_before_it_is_given(
    fake_host: FakeHost, sysfs: tuple[World, Path]
) -> None:
    world, directory = sysfs
    world.service.register(L4, "l4-gpu", {}, OPERATOR)
    (directory / "config").write_bytes(b"\xff" * 64)
    refusals: list[Callable[[], object]] = [
        lambda: world.service.bind("l4-gpu", "device", OPERATOR, force=True),
        lambda: world.service.attach("l4-gpu", "vm-off", "device", OPERATOR, force=True),
        lambda: world.service.clear("l4-gpu", OPERATOR),
    ]
    for refused in refusals:
        with pytest.raises(QuarantinedError, match="reads all ones"):
            refused()
    assert fake_host.calls["detachFlags"] == 0
    assert reason(world, "l4-gpu") == SILENT
    (directory / "config").write_bytes(b"\xde\x10" + bytes(62))
    with pytest.raises(DeviceError, match="quarantined since"):
        world.service.attach("l4-gpu", "vm-off", "device", OPERATOR, force=True)
    world.service.clear("l4-gpu", OPERATOR)
    world.service.attach("l4-gpu", "vm-off", "device", OPERATOR, force=True)


def test_one_that_cannot_be_read_is_not_held_against_a_device(
    sysfs: tuple[World, Path],
) -> None:
    world, directory = sysfs
    world.service.register(L4, "l4-gpu", {}, OPERATOR)
    (directory / "config").unlink()
    world.service.attach("l4-gpu", "vm-off", "device", OPERATOR, force=True)


def test_quarantines_of_addresses_and_mdevs_are_kept_apart(world: World) -> None:
    key, address = world.host.key(), PciAddress.parse(L4)
    assert world.registry.list_quarantines(key).get(address) is None
    assert world.registry.end_quarantine(key, address) is False
