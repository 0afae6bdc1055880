"""Registrations of a machine after its key has changed: found again, asked about, never lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import pytest

from hypeman_libvirt.devices.adoption import Adoption
from hypeman_libvirt.devices.host_identity import HostIdentity, MachineId
from hypeman_libvirt.registry import SqlRegistry
from tests import fake_libvirt
from tests.fake_host import FakeHost, Firmware
from tests.registry.registrations import nth
from tests.registry.test_upgrade import RELEASED
from tests.world import OPERATOR, World, world_on

MACHINE: Final = "0123456789abcdef0123456789abcdef"
KEY: Final = "machine:3fb648ce-61af-4df6-96e8-a99cb63770ea"
"""As systemd-id128 says it of that machine and our application's id."""
OLD: Final = "2f1c5a3e-8f7e-4a53-9f3c-0d6c7f6b7a10"
LEFT, RIGHT = "0000:51:00.0", "0000:52:00.0"

Start = Callable[..., World]


def plug(host: FakeHost, address: str, serial: str = "") -> None:
    host.add_pci(address, product="2684", driver="nvidia", group=int(address[5:7]), serial=serial)


@pytest.fixture
def no_firmware(fake_host: FakeHost) -> FakeHost:
    """A host whose firmware has no UUID, so that libvirt makes one up at each start."""
    fake_host.firmware = "empty"
    return fake_host


@pytest.fixture
def start(fake_host: FakeHost, tmp_path: Path) -> Iterator[Start]:
    """Starts a service on the host, each time with the same registry."""
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415
    from hypeman_libvirt.host.usage.local_host import LocalHost  # noqa: PLC0415

    with ExitStack() as stack:

        def start(machine: str = MACHINE) -> World:
            root = tmp_path / "root"
            (root / "etc").mkdir(parents=True, exist_ok=True)
            (root / "etc/machine-id").write_text(machine + "\n")
            host = open_host(fake_host.uri, local_host=LocalHost(root))
            stack.callback(host.close)
            return stack.enter_context(world_on(host, tmp_path))

        yield start


def names(world: World) -> list[str]:
    return [each.registration.name for each in world.service.inventory.list_devices({})]


def reboot(host: FakeHost) -> None:
    host.down()
    host.up()


def test_registrations_outlive_each_restart_of_libvirt(no_firmware: FakeHost, start: Start) -> None:
    world = start()
    plug(no_firmware, LEFT)
    registration = world.service.register(LEFT, "left", {}, OPERATOR).registration
    assert registration.host == KEY
    before = no_firmware.uuid
    reboot(no_firmware)
    assert no_firmware.uuid != before
    assert names(world) == ["left"]
    assert names(start()) == ["left"]


def test_a_uuid_of_the_firmware_stays_the_key(fake_host: FakeHost, start: Start) -> None:
    assert start().host.key() == fake_host.uuid


@pytest.mark.parametrize("firmware", ["empty", "unreadable"])
def test_what_belonged_to_the_uuid_of_this_moment_belongs_to_the_machine(
    fake_host: FakeHost, start: Start, firmware: Firmware, caplog: pytest.LogCaptureFixture
) -> None:
    fake_host.firmware = firmware
    world = start()
    world.registry.add(nth(1, host=fake_host.uuid))
    world.registry.note_host_driver(fake_host.uuid, nth(1).pci_address, "nvidia")
    world.service.follow()
    assert names(world) == [nth(1).name]
    assert world.registry.host_driver(KEY, nth(1).pci_address) == "nvidia"
    assert f"1 registration(s) of host {fake_host.uuid} belong to {KEY} now" in caplog.text
    assert "another name of this machine" in caplog.text


def test_what_belonged_to_the_machine_belongs_to_the_uuid_that_lasts(
    fake_host: FakeHost, start: Start
) -> None:
    fake_host.firmware = "unreadable"
    world = start()
    world.service.register("0000:a2:00.0", "l4-gpu", {}, OPERATOR)
    fake_host.firmware = "uuid"  # somebody has installed dmidecode
    again = start()
    again.service.follow()
    assert names(again) == ["l4-gpu"]
    assert again.registry.list_hosts() == [fake_host.uuid]


def test_an_adoption_is_an_event_of_its_own(no_firmware: FakeHost, start: Start) -> None:
    world = start()
    with world.service.event_feed.listen(None) as events:
        world.registry.add(nth(1, host=no_firmware.uuid))
        world.service.follow()
        seen = []
        while (event := next(events)) is not None:
            seen.append((event.type, event.name))
    assert ("adopted", nth(1).name) in seen
    assert "registered" not in {kind for kind, _ in seen}


def move_to(world: World, key: str) -> None:
    """Store what is registered under another key, as an older service would have."""
    world.registry.adopt(world.host.key(), key)
    assert names(world) == []


@pytest.mark.parametrize("again", [1, 2])
def test_cards_with_serial_numbers_prove_that_it_was_this_machine(
    no_firmware: FakeHost, start: Start, caplog: pytest.LogCaptureFixture, again: int
) -> None:
    plug(no_firmware, LEFT, "SN-0001")
    plug(no_firmware, RIGHT)
    world = start()
    world.service.register(LEFT, "left", {}, OPERATOR)
    world.service.register(RIGHT, "right", {}, OPERATOR)
    for _ in range(again):
        move_to(world, OLD)
        world.service.follow()
        assert names(world) == ["left", "right"]
    assert "its cards are plugged in here" in caplog.text


@pytest.mark.parametrize("release", ["0001", "0002", "0003"])
@pytest.mark.parametrize("serial", ["1562423000123", ""])
def test_a_registry_of_any_release_is_adopted_by_its_card(
    no_firmware: FakeHost, start: Start, tmp_path: Path, release: str, serial: str
) -> None:
    dump = (RELEASED / f"{release}.sql").read_text()
    with closing(sqlite3.connect(tmp_path / "registry.db")) as connection:
        connection.executescript(dump)
    no_firmware.vanish("pci_0000_a2_00_0")
    no_firmware.add_pci("0000:a2:00.0", driver="nvidia", group=82, serial=serial)
    world = start()
    world.service.follow()
    assert ("l4-gpu" in names(world)) is bool(serial)


def test_a_cloned_image_is_asked_about(
    no_firmware: FakeHost, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    plug(no_firmware, LEFT, "SN-0001")
    world = start()
    world.service.register(LEFT, "left", {}, OPERATOR)
    move_to(world, OLD)
    no_firmware.vanish("pci_0000_51_00_0")
    plug(no_firmware, LEFT, "SN-0002")  # the card of the clone
    world.service.follow()
    world.service.follow()
    asked = [each for each in caplog.messages if "registry adopt" in each]
    assert len(asked) == 1
    assert f"1 registration(s) belong to host {OLD}, and this is {KEY}" in asked[0]
    assert asked[0].endswith(f"hypeman-libvirt registry adopt {OLD}")
    assert names(world) == []
    assert world.registry.list_hosts() == [OLD]


def test_cards_that_say_nothing_of_themselves_prove_nothing(
    no_firmware: FakeHost, start: Start
) -> None:
    plug(no_firmware, LEFT)
    world = start()
    world.service.register(LEFT, "left", {}, OPERATOR)
    move_to(world, OLD)
    world.service.follow()
    assert names(world) == []
    world.registry.adopt(OLD, world.host.key())
    assert names(world) == ["left"]


def test_one_card_that_was_carried_over_does_not_take_the_others_along(
    no_firmware: FakeHost, start: Start
) -> None:
    plug(no_firmware, LEFT, "SN-0001")
    plug(no_firmware, RIGHT, "SN-0002")
    world = start()
    world.service.register(LEFT, "left", {}, OPERATOR)
    world.service.register(RIGHT, "right", {}, OPERATOR)
    move_to(world, OLD)
    no_firmware.vanish("pci_0000_52_00_0")
    world.service.follow()
    assert names(world) == []


def test_a_name_that_is_taken_leaves_all_as_it_was(
    no_firmware: FakeHost, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    world = start()
    world.service.register("0000:a2:00.0", "left", {}, OPERATOR)
    world.registry.add(nth(1, host=no_firmware.uuid, name="left"))
    world.registry.add(nth(2, host=no_firmware.uuid))
    world.service.follow()
    world.service.follow()
    assert names(world) == ["left"]
    stay = [each for each in caplog.messages if "stay there" in each]
    assert len(stay) == 1
    assert "has a name or an address" in stay[0]


@pytest.mark.usefixtures("fake_host")
@pytest.mark.parametrize(("firmware", "stays"), [("empty", ["left"]), ("uuid", [])])
def test_a_remote_host_is_followed_only_where_libvirt_makes_its_uuid_up(
    tmp_path: Path, firmware: Firmware, stays: list[str]
) -> None:
    """Another UUID of the firmware at the same URI is another host."""
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415

    remote = FakeHost()
    remote.uri = f"vz+tls://there/{remote.name}"
    remote.firmware = firmware
    plug(remote, LEFT)
    fake_libvirt.serve(remote)
    host = open_host(remote.uri)
    with world_on(host, tmp_path) as world:
        world.service.register(LEFT, "left", {}, OPERATOR)
        world.service.follow()
        first = world.host.key()
        assert first == remote.uuid
        reboot(remote)
        remote.uuid = OLD
        while world.host.key() != OLD:  # until a call has met the loss
            world.service.follow()
        world.service.follow()
        assert names(world) == stays
        assert world.registry.list_hosts() == [OLD if stays else first]
    host.close()
    fake_libvirt.forget(remote)


class Shared(SqlRegistry):
    """A database of several machines."""

    @property
    def is_on_this_machine(self) -> bool:
        return False


def test_in_a_shared_registry_a_card_that_was_carried_over_proves_nothing(
    no_firmware: FakeHost, start: Start, tmp_path: Path
) -> None:
    plug(no_firmware, LEFT, "SN-0001")
    world = start()
    world.service.register(LEFT, "left", {}, OPERATOR)
    move_to(world, OLD)
    with closing(Shared(tmp_path / "registry.db")) as shared:
        assert Adoption(world.host, shared, lambda _: None).adopt() == []
    assert world.registry.list_hosts() == [OLD]


def test_while_libvirt_is_away_the_host_is_the_same(no_firmware: FakeHost, start: Start) -> None:
    world = start()
    assert world.host.key() == KEY
    no_firmware.down()
    assert world.host.key() == KEY


@pytest.mark.parametrize(
    ("identity", "key"),
    [
        (HostIdentity("u", OLD, OLD), OLD),
        (HostIdentity("u", OLD, None), OLD),
        (HostIdentity("u", None, None, MachineId(MACHINE, KEY)), "u"),
        (HostIdentity("u", OLD, OLD, MachineId(MACHINE, KEY)), OLD),
        (HostIdentity("u", OLD, "", MachineId(MACHINE, KEY)), KEY),
        (HostIdentity("u", OLD, None, MachineId(MACHINE, KEY)), KEY),
        (HostIdentity("u", OLD, "", MachineId(OLD.replace("-", ""), KEY)), OLD),
    ],
)
def test_the_key_is_the_first_that_lasts(identity: HostIdentity, key: str) -> None:
    assert identity.key == key
    assert key not in identity.aliases


@pytest.mark.parametrize("text", ["", "uninitialized", "ABC", "é"])
def test_a_machine_without_an_id_has_libvirts_uuid(
    no_firmware: FakeHost, start: Start, text: str
) -> None:
    assert start(text).host.key() == no_firmware.uuid
