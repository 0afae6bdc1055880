"""What is cached of node devices and domains is what libvirt would say, and is seldom asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import LibvirtUnavailableError
from hypeman_libvirt.devices.node_device import NodeDevice, VgpuProfile
from hypeman_libvirt.host.assignments import DomainReader
from hypeman_libvirt.host.cache.domains import DomainCache
from hypeman_libvirt.host.cache.node_devices import NodeDeviceCache
from hypeman_libvirt.host.connection import Announcement, Connection
from hypeman_libvirt.host.node_devices import NodeDevices
from tests.fake_host import FakeHost

A_WHILE = 300.0
L4, GPU, IDLE = (PciAddress.parse(f"0000:{each}") for each in ("a2:00.0", "41:00.0", "00:1f.4"))
NEW = PciAddress.parse("0000:77:00.0")


@dataclass
class Kernel:
    """The drivers of the fake host, as sysfs shows them."""

    host: FakeHost

    def driver(self, address: PciAddress) -> str | None:
        found = [each for each in self.host.functions() if each.address == str(address)]
        return found[0].driver if found else None

    def is_vfio_provider(self, address: PciAddress, driver: str | None) -> bool:
        found = [each for each in self.host.functions() if each.address == str(address)]
        return driver is not None and any(each.is_vfio_provider for each in found)

    def vgpu(self, _address: PciAddress) -> tuple[str | None, tuple[VgpuProfile, ...]]:
        return None, ()

    def complete(self, node: NodeDevice) -> NodeDevice:
        provider = self.is_vfio_provider(node.address, node.driver)
        return replace(node, is_vfio_provider=True) if provider else node

    def addresses(self) -> set[str]:
        return {each.address for each in self.host.functions()}


@dataclass
class Files:
    """The definitions' files; ``write`` is what libvirt does when a definition changes."""

    stamps: dict[str, tuple[int, int]] | None = field(
        default_factory=lambda: {"vm-off": (1, 1), "vm-on": (1, 2)}
    )

    def read(self) -> dict[str, tuple[int, int]] | None:
        return self.stamps

    def write(self, name: str) -> None:
        assert self.stamps is not None
        written = max((at for at, _ in self.stamps.values()), default=0) + 1
        self.stamps = self.stamps | {name: (written, written)}


class CachedWorld:
    """A cached host on the fake."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.files = Files()
        self.heard: list[Announcement] = []
        self._more = threading.Condition()
        connection = Connection(host.uri)
        self.connection = connection
        kernel = Kernel(host)
        node_devices = NodeDevices(connection, kernel.complete)
        self.nodes = NodeDeviceCache(connection, node_devices, kernel)
        self.domains = DomainCache(
            connection, DomainReader(connection), lambda: lambda _: None, self.files.read
        )
        connection.subscribe(self._hear)  # the last, so that the others have heard it already

    def settle(self, kind: str, name: str | None = None) -> None:
        """Wait until libvirt has announced it."""
        with self._more:
            assert self._more.wait_for(
                lambda: any((each.kind, each.name) == (kind, name) for each in self.heard), A_WHILE
            )
            self.heard.clear()

    def assignments(self, address: PciAddress) -> list[str]:
        return [each.domain.name for each in self.domains.list_assignments().get(address, ())]

    def asked(self, ask: Any) -> int:  # noqa: ANN401 - any of the reads
        """Count the calls to libvirt that a read takes."""
        before = sum(self.host.calls.values())
        ask()
        return sum(self.host.calls.values()) - before

    def _hear(self, announcement: Announcement) -> None:
        with self._more:
            self.heard.append(announcement)
            self._more.notify_all()


@pytest.fixture
def cached(fake_host: FakeHost) -> Iterator[CachedWorld]:
    world = CachedWorld(fake_host)
    for _ in range(2):  # the first one opens the connection, which invalidates what it read
        world.nodes.list_devices()
        world.domains.list_assignments()
    world.heard.clear()
    yield world
    world.connection.close()


def test_a_host_that_does_not_change_is_not_asked(cached: CachedWorld) -> None:
    assert cached.asked(lambda: cached.nodes.find(L4)) == 0
    assert cached.asked(lambda: cached.nodes.find(NEW)) == 0
    assert cached.asked(cached.nodes.list_devices) == 0
    assert cached.asked(cached.domains.list_assignments) == 0


def test_it_says_what_libvirt_says(cached: CachedWorld) -> None:
    connection = Connection(cached.host.uri)
    assert cached.nodes.list_devices() == NodeDevices(connection).list_devices()
    assert cached.nodes.find(L4) == NodeDevices(connection).find(L4)
    connection.close()


@pytest.mark.parametrize("driver", ["vfio-pci", None])
def test_a_driver_that_somebody_changed_in_sysfs_is_in_the_next_answer(
    cached: CachedWorld, driver: str | None
) -> None:
    cached.host.set_driver("0000:a2:00.0", driver)
    found = cached.nodes.find(L4)
    assert found is not None
    assert found.driver == driver
    cached.host.set_driver("0000:41:00.0", driver)
    drivers = {each.address: each.driver for each in cached.nodes.list_devices()}
    assert (drivers[L4], drivers[GPU]) == (driver, driver)


def test_a_driver_that_provides_vfio_itself_is_in_the_next_answer(cached: CachedWorld) -> None:
    cached.host.provides_vfio(str(L4))
    found = cached.nodes.find(L4)
    assert found is not None
    assert found.is_vfio_provider
    cached.host.provides_vfio(str(GPU))
    providers = {each.address for each in cached.nodes.list_devices() if each.is_vfio_provider}
    assert providers == {L4, GPU}
    assert cached.asked(cached.nodes.list_devices) == 0


def test_of_a_driver_that_changed_only_that_device_is_asked(cached: CachedWorld) -> None:
    cached.host.set_driver("0000:a2:00.0", "vfio-pci")
    assert cached.asked(lambda: cached.nodes.find(L4)) == 2  # look up and describe


def test_a_device_that_appears_is_found_before_libvirt_announces_it(cached: CachedWorld) -> None:
    cached.host.add_pci("0000:77:00.0", group=77)
    assert cached.nodes.find(NEW) is not None
    assert NEW in [each.address for each in cached.nodes.list_devices()]


def test_a_device_that_vanishes_is_gone_before_libvirt_announces_it(cached: CachedWorld) -> None:
    cached.host.vanish("0000:a2:00.0")
    cached.host.vanish("0000:00:1f.4")  # it has no driver that could be missed
    assert cached.nodes.find(L4) is None
    assert cached.nodes.find(IDLE) is None
    assert {L4, IDLE}.isdisjoint(each.address for each in cached.nodes.list_devices())


def test_virtual_functions_that_appear_are_named_by_their_card(cached: CachedWorld) -> None:
    cached.host.add_pci("0000:77:00.0", group=77, driver="mlx5_core", max_vfs=2)
    assert cached.nodes.find(NEW) is not None
    cached.host.add_pci("0000:77:00.1", group=78, physical_function="0000:77:00.0")
    cached.settle("node device", "pci_0000_77_00_1")
    card = cached.nodes.find(NEW)
    assert card is not None
    assert [str(each) for each in card.virtual_functions] == ["0000:77:00.1"]


def test_other_node_devices_invalidate_nothing(cached: CachedWorld) -> None:
    cached.settle("node device", cached.host.add_child("0000:3b:00.0", "net", "vnet7"))
    assert cached.asked(cached.nodes.list_devices) == 0


def test_a_domain_that_starts_and_ends_is_known_once_announced(cached: CachedWorld) -> None:
    cached.host.virsh_attach("vm-off", "0000:a2:00.0", live=False)
    cached.files.write("vm-off")
    cached.host.virsh_start("vm-off")
    cached.settle("domain", "vm-off")
    (assignment,) = cached.domains.list_assignments()[L4]
    assert (assignment.domain.name, assignment.live) == ("vm-off", True)
    cached.host.virsh_destroy("vm-off")
    cached.settle("domain", "vm-off")
    (assignment,) = cached.domains.list_assignments()[L4]
    assert not assignment.live


def test_a_definition_that_libvirt_changes_without_a_word_is_in_the_next_answer(
    cached: CachedWorld,
) -> None:
    cached.host.virsh_attach("vm-off", "0000:a2:00.0", live=False)
    cached.files.write("vm-off")
    assert cached.assignments(L4) == ["vm-off"]
    cached.host.virsh_detach("vm-off", "0000:a2:00.0", live=False)
    cached.files.write("vm-off")
    assert cached.assignments(L4) == []


def test_of_a_domain_that_changed_only_that_one_is_asked(cached: CachedWorld) -> None:
    for number in range(20):
        cached.host.add_domain(f"vm-{number}")
        cached.files.write(f"vm-{number}")
        cached.settle("domain", f"vm-{number}")
    cached.domains.list_assignments()
    cached.files.write("vm-7")
    assert cached.asked(cached.domains.list_assignments) <= 4


def test_a_domain_that_is_undefined_holds_nothing(cached: CachedWorld) -> None:
    cached.host.virsh_attach("vm-off", "0000:a2:00.0", live=False)
    cached.files.write("vm-off")
    cached.domains.list_assignments()
    cached.host.virsh_undefine("vm-off")
    cached.settle("domain", "vm-off")
    assert cached.assignments(L4) == []


def test_without_the_definitions_files_libvirt_is_asked_each_time(cached: CachedWorld) -> None:
    cached.files.stamps = None
    cached.host.virsh_attach("vm-off", "0000:a2:00.0", live=False)
    assert cached.assignments(L4) == ["vm-off"]


def test_files_that_are_not_this_libvirts_are_not_believed(cached: CachedWorld) -> None:
    """In a container the directory may be there and another one than libvirt's."""
    cached.files.stamps = {"vm-off": (1, 1)}
    assert cached.asked(cached.domains.list_assignments) > 0
    cached.host.virsh_attach("vm-off", "0000:a2:00.0", live=False)
    assert cached.assignments(L4) == ["vm-off"]


def test_a_libvirt_that_announces_nothing_is_asked_each_time(fake_host: FakeHost) -> None:
    for call in ("domainEventRegisterAny", "nodeDeviceEventRegisterAny"):
        fake_host.refuse(call, 3)
    cached = CachedWorld(fake_host)
    assert cached.assignments(L4) == []
    fake_host.virsh_attach("vm-off", "0000:a2:00.0", live=False)
    assert cached.assignments(L4) == ["vm-off"]
    assert cached.asked(lambda: cached.nodes.find(L4)) > 0
    cached.connection.close()


def test_a_libvirt_that_is_gone_is_not_spoken_for(cached: CachedWorld) -> None:
    cached.host.down()
    cached.settle("connection")
    with pytest.raises(LibvirtUnavailableError):
        cached.nodes.find(L4)
    with pytest.raises(LibvirtUnavailableError):
        cached.domains.list_assignments()


def test_after_a_lost_connection_everything_is_read_again(cached: CachedWorld) -> None:
    cached.host.drop_connections()
    cached.settle("connection")
    cached.host.virsh_attach("vm-off", "0000:a2:00.0", live=False)
    assert cached.assignments(L4) == ["vm-off"]
    assert cached.nodes.find(L4) is not None
