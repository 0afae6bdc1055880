"""What a change is decided on, how often the host is asked for it, and what is undone."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from hypeman_libvirt.devices.address import HostDeviceId, PciAddress
from hypeman_libvirt.devices.domain import MetadataEntry, Usage
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.devices.ports import AssignmentsByDevice, Held, Host, HostView, Locks
from hypeman_libvirt.devices.service import DeviceService
from tests.devices.test_attach import attach
from tests.devices.test_bind import ALONE, AUDIO, GPU, refusal, register
from tests.fake_host import FakeHost
from tests.fake_xml import held
from tests.world import OPERATOR, World

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost


class Counting:
    """The live host; it notes when it is asked which domains have a device, and for a domain."""

    def __init__(self, host: LibvirtHost) -> None:
        self._host = host
        self.asked: list[str] = []

    def read_assignments(self, devices: Collection[HostDeviceId]) -> AssignmentsByDevice:
        self.asked.append("all domains")
        return self._host.read_assignments(devices)

    def read_usage(
        self, devices: Collection[HostDeviceId], endpoints: Collection[NodeDevice]
    ) -> Usage:
        self.asked.append("all domains")
        return self._host.read_usage(devices, endpoints)

    def read_domain_assignments(self, domain: object) -> object:
        self.asked.append("one domain")
        return self._host.read_domain_assignments(domain)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(self._host, name)


class Stale:
    """A view that has missed everything since it was made."""

    def __init__(self, host: LibvirtHost) -> None:
        self._host = host

    def list_assignments(self) -> AssignmentsByDevice:
        return {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._host, name)


def service_on(world: World, **replaced: object) -> DeviceService:
    """The same registry and locks, as another process of the service has them."""
    from hypeman_libvirt import bootstrap  # noqa: PLC0415

    base = replace(world.base, **replaced)  # type: ignore[arg-type]
    return bootstrap.build_service(world.settings, base)


def entries(host: LibvirtHost, name: str) -> list[MetadataEntry]:
    domain = host.find_domain(name)
    assert domain is not None
    return list(host.read_metadata(domain))


def test_which_domains_have_a_device_is_asked_once_and_then_of_the_touched_domain_alone(
    world: World,
) -> None:
    register(world, GPU)
    counting = Counting(world.host)
    service = service_on(world, host=cast("Host", counting))

    def asked() -> list[str]:
        was, counting.asked = counting.asked, []
        return was

    service.bind(GPU, "group", OPERATOR)
    assert asked() == ["all domains"]
    service.attach(GPU, "vm-on", "group", OPERATOR)
    assert asked() == ["all domains", "one domain"]
    service.detach(GPU, OPERATOR)
    assert asked() == ["all domains", "one domain"]
    service.unbind(GPU, "group", OPERATOR)
    assert asked() == ["all domains"]
    service.unregister(GPU, OPERATOR)
    assert asked() == ["all domains"]
    service.register(GPU, None, {}, OPERATOR)
    assert asked() == ["all domains"]
    service.register(ALONE, None, {}, OPERATOR, "device")
    assert asked() == ["all domains"]
    service.unregister(ALONE, OPERATOR, "device")
    assert asked() == ["all domains"]


def test_what_a_view_has_missed_does_not_decide(world: World, fake_host: FakeHost) -> None:
    register(world, ALONE)
    fake_host.virsh_attach("vm-off", ALONE, live=False)
    service = service_on(world, view=cast("HostView", Stale(world.host)))
    assert service.inventory.get(ALONE).assignment is None
    for refused in (
        lambda: service.unregister(ALONE, OPERATOR),
        lambda: service.attach(ALONE, "vm-on", "device", OPERATOR),
    ):
        with refusal("in_use"):
            refused()


@pytest.mark.parametrize("scope", ["device", "group"])
def test_an_unregistration_that_is_refused_moves_no_driver(
    world: World, fake_host: FakeHost, scope: str
) -> None:
    register(world, ALONE)
    fake_host.virsh_attach("vm-off", ALONE, live=False)
    world.service.bind(ALONE, "device", OPERATOR)
    with refusal("in_use"):
        world.service.unregister(ALONE, OPERATOR, scope)  # type: ignore[arg-type]
    assert fake_host.calls["reAttach"] == 0
    assert fake_host.driver(ALONE) == "vfio-pci"


def test_a_driver_that_was_noted_by_a_process_that_is_gone_is_known(
    world: World, fake_host: FakeHost
) -> None:
    register(world, GPU)
    service_on(world).bind(GPU, "group", OPERATOR)
    fake_host.driver_refuses(AUDIO)
    with refusal("driver_not_bound") as error:
        world.service.unbind(GPU, "group", OPERATOR)
    assert f"snd_hda_intel did not take {AUDIO} back" in str(error.value)
    assert (fake_host.driver(GPU), fake_host.driver(AUDIO)) == ("vfio-pci", "vfio-pci")
    fake_host.pci(AUDIO).refused_by_host_driver = False
    world.service.unbind(GPU, "group", OPERATOR)
    key = world.host.key()
    assert world.registry.host_driver(key, PciAddress.parse(AUDIO)) is None
    assert fake_host.driver(AUDIO) == "snd_hda_intel"


@pytest.mark.parametrize("lost_after", [0, 1, 2, 3])
def test_an_attach_whose_reply_is_lost_is_undone_and_can_be_repeated(
    world: World, fake_host: FakeHost, libvirt_host: LibvirtHost, lost_after: int
) -> None:
    register(world, GPU)
    fake_host.lose_reply("attachDeviceFlags", after=lost_after)
    with refusal("libvirt_unavailable"):
        attach(world, GPU, "vm-on", "group")
    guest = fake_host.guest("vm-on")
    assert held(guest.live) == held(guest.config) == set()
    assert (fake_host.driver(GPU), fake_host.driver(AUDIO)) == ("nvidia", "snd_hda_intel")
    assert entries(libvirt_host, "vm-on") == []
    attach(world, GPU, "vm-on", "group")
    world.service.detach(GPU, OPERATOR)
    assert (fake_host.driver(GPU), fake_host.driver(AUDIO)) == ("nvidia", "snd_hda_intel")


def test_an_attach_that_can_neither_be_answered_nor_undone_is_completed_by_the_next(
    world: World, fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    register(world, GPU)
    fake_host.lose_reply("attachDeviceFlags", after=2)
    fake_host.guest_ignores_unplug("vm-on")
    fake_host.refuse("detachDeviceFlags", 38, 7)
    with refusal("libvirt_unavailable"):
        attach(world, GPU, "vm-on", "group")
    assert held(fake_host.guest("vm-on").live) == {GPU}
    fake_host.allow("detachDeviceFlags")
    device = attach(world, GPU, "vm-on", "group")
    assert device.assignment is not None
    assert held(fake_host.guest("vm-on").live) == {GPU, AUDIO}
    (entry,) = entries(libvirt_host, "vm-on")
    assert entry.bound == (PciAddress.parse(AUDIO),)
    fake_host.guest_ignores_unplug("vm-on", ignores=False)
    world.service.detach(GPU, OPERATOR)
    assert (fake_host.driver(GPU), fake_host.driver(AUDIO)) == ("nvidia", "snd_hda_intel")


def test_a_device_that_a_domain_has_without_our_note_gets_one(
    world: World, fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    device = register(world, ALONE, "l4-gpu")
    fake_host.virsh_attach("vm-on", ALONE)
    attach(world, ALONE, "vm-on")
    assert [each.id for each in entries(libvirt_host, "vm-on")] == [device.registration.id]
    assert fake_host.calls["attachDeviceFlags"] == 0


def test_a_domain_that_starts_meanwhile_gets_the_device_live_too(
    world: World, fake_host: FakeHost
) -> None:
    register(world, ALONE)

    def start(call: str) -> None:
        if call == "attachDeviceFlags":
            fake_host.before_call = lambda _: None
            fake_host.virsh_start("vm-off")

    fake_host.before_call = start
    device = attach(world, ALONE, "vm-off")
    assert device.assignment is not None
    assert (device.assignment.live, device.assignment.persistent) == (True, True)


def test_a_domain_that_stops_before_an_attach_begins_has_nothing_and_can_have_it(
    world: World, fake_host: FakeHost
) -> None:
    register(world, ALONE)
    stop_at(fake_host, "setMetadata")
    with refusal("in_use") as error:
        attach(world, ALONE, "vm-on")
    assert "was started or stopped meanwhile" in str(error.value)
    assert held(fake_host.guest("vm-on").config) == set()
    assert entries(world.host, "vm-on") == []
    assert attach(world, ALONE, "vm-on").assignment is not None


def test_a_domain_that_stops_in_an_attach_has_the_device_at_its_next_start(
    world: World, fake_host: FakeHost
) -> None:
    register(world, ALONE)
    stop_at(fake_host, "attachDeviceFlags")
    device = attach(world, ALONE, "vm-on")
    assert device.assignment is not None
    assert (device.assignment.live, device.assignment.persistent) == (False, True)
    assert held(fake_host.guest("vm-on").config) == {ALONE}
    assert [each.device for each in entries(world.host, "vm-on")] == [PciAddress.parse(ALONE)]


def test_a_domain_that_stops_in_a_detach_is_not_waited_for(
    world: World, fake_host: FakeHost
) -> None:
    register(world, ALONE)
    attach(world, ALONE, "vm-on")
    world.settings = world.settings.model_copy(update={"release_timeout": 3600.0})
    service = service_on(world)
    stop_at(fake_host, "detachDeviceFlags")
    with refusal("in_use") as error:
        service.detach(ALONE, OPERATOR)
    assert "was started or stopped meanwhile" in str(error.value)
    assert service.detach(ALONE, OPERATOR).assignment is None
    assert held(fake_host.guest("vm-on").config) == set()
    assert entries(world.host, "vm-on") == []


def stop_at(fake_host: FakeHost, call: str) -> None:
    """Have somebody end the running domain right before the next such call."""

    def stop(now: str) -> None:
        if now == call:
            fake_host.before_call = lambda _: None
            fake_host.virsh_destroy("vm-on")

    fake_host.before_call = stop


def test_a_guest_that_says_no_is_answered_at_once(world: World, fake_host: FakeHost) -> None:
    register(world, ALONE)
    attach(world, ALONE, "vm-on")
    fake_host.guest_refuses_unplug("vm-on")
    world.settings = world.settings.model_copy(update={"release_timeout": 3600.0})
    service = service_on(world)
    with refusal("guest_did_not_release") as error:
        service.detach(ALONE, OPERATOR)
    assert "answered the request with a no" in str(error.value)
    assert held(fake_host.guest("vm-on").live) == {ALONE}


class Meddling:
    """Locks; somebody changes the host just before the first are taken."""

    def __init__(self, locks: Locks, meddle: Callable[[], object]) -> None:
        self._locks = locks
        self._meddle = meddle

    def hold(self, keys: Collection[str]) -> Held:
        self._meddle()
        return self._locks.hold(keys)


def test_a_group_that_is_another_than_was_locked_is_not_touched(
    world: World, fake_host: FakeHost
) -> None:
    register(world, ALONE)
    new = "0000:a3:00.0"
    locks = Meddling(
        world.base.locks, lambda: fake_host.add_pci(new, product="a80a", driver="nvme", group=82)
    )
    service = service_on(world, locks=locks)
    with refusal("busy") as error:
        service.bind(ALONE, "group", OPERATOR)
    assert "the IOMMU group of 0000:a2:00.0 has changed" in str(error.value)
    assert (fake_host.driver(ALONE), fake_host.driver(new)) == ("nvidia", "nvme")
    world.service.bind(ALONE, "group", OPERATOR)
