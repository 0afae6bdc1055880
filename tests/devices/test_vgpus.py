"""vGPUs that are mediated devices: made, registered, given to domains and taken away again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import (
    ConflictError,
    DeviceError,
    DeviceNotFoundError,
    InUseError,
    LibvirtFailedError,
    LibvirtUnavailableError,
    NoCapacityError,
    NotFoundError,
    ProfileNotFoundError,
)
from hypeman_libvirt.devices.model import Device, Quarantine
from hypeman_libvirt.devices.recovery import recover
from hypeman_libvirt.rest.schemas import AvailableDeviceOut, DeviceOut
from tests.devices.vgpus import (
    LARGE,
    OTHER,
    SMALL,
    T4,
    add_gpus,
    create,
    holds,
    make_by_hand,
    service_on,
)
from tests.fake_host import FakeHost
from tests.world import OPERATOR, World

UUID = "c2177883-f1bb-47f0-914d-32a22e3a8804"


@pytest.fixture
def world(fake_host: FakeHost, tmp_path: Path) -> Iterator[World]:
    add_gpus(fake_host)
    with service_on(fake_host, tmp_path) as world:
        yield world


def available(world: World, profile: str, parent: str) -> int:
    listed = {each.name: each for each in world.service.list_profiles()}
    return next(p.available for p in listed[profile].parents if str(p.pci_address) == parent)


def test_it_is_made_and_registered_in_one_step(world: World, fake_host: FakeHost) -> None:
    made = create(world)
    (mdev,) = fake_host.mediated_devices()
    assert (mdev.active, mdev.defined, mdev.autostart) == (True, True, False)
    out = DeviceOut.of(world.service.inventory.get("slice"))
    assert out == DeviceOut.of(made)
    assert (out.parent, out.profile, out.mdev_uuid) == (T4, LARGE, mdev.uuid)
    assert (out.pci_address, out.iommu_group, out.type) == (T4, mdev.group, "gpu")
    assert (out.state, out.bound_to_vfio, out.persistent) == ("present", True, False)
    assert [change.action for change in world.changes] == ["register"]


@pytest.mark.parametrize("profile", [LARGE, "T4-8Q", "nvidia-230"])
def test_a_profile_has_a_name_with_and_without_the_brand_and_an_id(
    world: World, fake_host: FakeHost, profile: str
) -> None:
    create(world, profile=profile)
    assert [each.type_id for each in fake_host.mediated_devices()] == ["nvidia-230"]


def test_persist_starts_it_with_the_host(world: World, fake_host: FakeHost) -> None:
    assert DeviceOut.of(create(world, persist=True)).persistent
    assert [each.autostart for each in fake_host.mediated_devices()] == [True]


def test_it_is_found_by_its_uuid_and_by_libvirts_name(world: World, fake_host: FakeHost) -> None:
    made = create(world)
    (mdev,) = fake_host.mediated_devices()
    for reference in (mdev.uuid, mdev.uuid.upper(), mdev.name):
        assert world.service.inventory.get(reference).registration == made.registration
    with pytest.raises(NotFoundError):
        world.service.inventory.get(T4)


def test_the_gpu_with_most_room_gets_it(world: World) -> None:
    made = [create(world, f"slice-{number}", parent=None) for number in range(5)]
    where = [str(each.registration.pci_address) for each in made]
    assert where == [OTHER, T4, OTHER, T4, OTHER]


def test_a_numa_node_is_preferred_and_no_more(world: World) -> None:
    made = [create(world, f"slice-{number}", parent=None, numa_node=0) for number in range(3)]
    assert [str(each.registration.pci_address) for each in made] == [T4, T4, OTHER]


def test_profiles_say_how_many_more_fit(world: World) -> None:
    create(world)
    assert [available(world, LARGE, each) for each in (T4, OTHER)] == [1, 3]
    assert [available(world, SMALL, each) for each in (T4, OTHER)] == [0, 16]
    small, large = world.service.list_profiles()
    assert (small.name, small.framebuffer, small.available) == (SMALL, 1024, 16)
    assert (large.name, large.framebuffer, large.framework) == (LARGE, 8192, "mdev")
    assert large.parents[0].name == "TU104GL [Tesla T4]"


def test_a_profile_that_nobody_offers_is_named_with_those_that_are(world: World) -> None:
    with pytest.raises(ProfileNotFoundError) as refusal:
        create(world, profile="A100-4C")
    assert [each.message for each in refusal.value.details] == [SMALL, LARGE]
    with pytest.raises(DeviceNotFoundError):
        create(world, parent="0000:99:00.0")


def test_a_parent_without_room_is_refused(world: World, fake_host: FakeHost) -> None:
    create(world, "one")
    create(world, "two")
    for profile in (LARGE, SMALL):
        with pytest.raises(NoCapacityError, match=f"no room .* on {T4}"):
            create(world, "three", profile=profile)
    assert len(fake_host.mediated_devices()) == 2


def test_a_parent_on_vfio_pci_is_refused_with_what_to_do(world: World) -> None:
    world.service.register(T4, "whole", {}, OPERATOR, "device")
    with pytest.raises(NoCapacityError, match="it is on vfio-pci") as refusal:
        create(world)
    assert OTHER in str(refusal.value.hint)
    world.service.register(OTHER, "other", {}, OPERATOR, "device")
    with pytest.raises(ProfileNotFoundError, match="give it back to its host driver first"):
        create(world)


def test_a_gpu_under_quarantine_gets_none(world: World) -> None:
    quarantine = Quarantine("it does not answer", world.now)
    world.registry.quarantine(world.host.key(), PciAddress.parse(OTHER), quarantine)
    assert str(create(world, parent=None).registration.pci_address) == T4
    with pytest.raises(NoCapacityError):
        create(world, "other", parent=OTHER)


def test_a_name_that_is_taken_makes_nothing(world: World, fake_host: FakeHost) -> None:
    create(world)
    with pytest.raises(ConflictError):
        create(world)
    assert fake_host.calls["nodeDeviceDefineXML"] == 1


def test_two_clients_for_the_last_slot(world: World) -> None:
    create(world, "first")

    def ask(name: str) -> str:
        try:
            return create(world, name).registration.name
        except NoCapacityError as error:
            return error.code

    with ThreadPoolExecutor(2) as clients:
        answers = list(clients.map(ask, ["second", "third"]))
    assert answers.count("no_capacity") == 1
    assert {*answers} & {"second", "third"}


def test_a_repeated_request_with_a_name_gets_the_answer_that_was_lost(
    world: World, fake_host: FakeHost
) -> None:
    made = create(world)
    again = world.service.create_vgpu(LARGE, "slice", {}, replace(OPERATOR, is_retry=True))
    assert again.registration == made.registration
    assert len(fake_host.mediated_devices()) == 1


CALLS = ("nodeDeviceDefineXML", "nodeDeviceCreate", "nodeDeviceSetAutostart")


@pytest.mark.parametrize("call", CALLS)
def test_what_fails_is_undone(world: World, fake_host: FakeHost, call: str) -> None:
    fake_host.refuse(call, 1, times=1)
    with pytest.raises(LibvirtFailedError):
        create(world, persist=True)
    assert fake_host.mediated_devices() == []
    assert world.service.inventory.list_devices({}) == []
    assert create(world).node is not None


@pytest.mark.parametrize("call", CALLS)
def test_a_lost_reply_is_undone(world: World, fake_host: FakeHost, call: str) -> None:
    fake_host.lose_reply(call)
    with pytest.raises(LibvirtUnavailableError):
        create(world, persist=True)
    assert fake_host.mediated_devices() == []
    assert world.service.inventory.list_devices({}) == []


def test_what_cannot_be_undone_stays_registered_and_can_be_deleted(
    world: World, fake_host: FakeHost
) -> None:
    fake_host.refuse("nodeDeviceSetAutostart", 1, times=1)
    fake_host.refuse("nodeDeviceDestroy", 38, times=1)
    with pytest.raises(LibvirtFailedError):
        create(world, persist=True)
    assert DeviceOut.of(world.service.inventory.get("slice")).state == "present"
    world.service.unregister("slice", OPERATOR)
    assert fake_host.mediated_devices() == []


def test_another_program_takes_the_last_room_meanwhile(world: World, fake_host: FakeHost) -> None:
    create(world, "first")

    def take(call: str) -> None:
        if call == "nodeDeviceCreate":
            fake_host.before_call = lambda _: None
            make_by_hand(fake_host, UUID)

    fake_host.before_call = take
    with pytest.raises(NoCapacityError):
        create(world, "second")
    assert [each.registration.name for each in world.service.inventory.list_devices({})] == [
        "first"
    ]
    assert len(fake_host.mediated_devices()) == 2


@pytest.mark.parametrize("name", ["vm-on", "vm-off"])
def test_a_domain_gets_it_and_gives_it_back(world: World, fake_host: FakeHost, name: str) -> None:
    made = create(world)
    attached = world.service.attach("slice", name, "group", OPERATOR)
    running = name == "vm-on"
    assert holds(fake_host, name, made) == (running, True)
    assert DeviceOut.of(attached).attached_domain == name
    assert DeviceOut.of(world.service.inventory.get("slice")).attached_domain == name
    with pytest.raises(InUseError, match=name):
        world.service.unregister("slice", OPERATOR)
    world.service.detach("slice", OPERATOR)
    assert holds(fake_host, name, made) == (False, False)
    assert [each.active for each in fake_host.mediated_devices()] == [True]
    world.service.unregister("slice", OPERATOR)
    assert fake_host.mediated_devices() == []


def test_a_failed_attach_leaves_nothing(world: World, fake_host: FakeHost) -> None:
    made = create(world)
    fake_host.fail_after("attachDeviceFlags", 1, 1)
    with pytest.raises(DeviceError):
        world.service.attach("slice", "vm-on", "device", OPERATOR)
    assert holds(fake_host, "vm-on", made) == (False, False)


def test_an_inactive_one_is_missing_and_not_attached(world: World, fake_host: FakeHost) -> None:
    create(world)
    (mdev,) = fake_host.mediated_devices()
    fake_host.end_mdev(mdev)
    world.host.view.list_mdevs()
    assert DeviceOut.of(world.service.inventory.get("slice")).state == "missing"
    with pytest.raises(DeviceError, match="not active"):
        world.service.attach("slice", "vm-off", "device", OPERATOR)
    assert not world.service.preflight.of_device("slice").ready
    world.service.unregister("slice", OPERATOR)
    assert fake_host.mediated_devices() == []


def test_it_needs_neither_bind_nor_unbind(world: World, fake_host: FakeHost) -> None:
    create(world)
    assert world.service.preflight.of_device("slice", purpose="bind").ready
    assert world.service.preflight.of_device("slice", "vm-on").ready
    world.service.bind("slice", "group", OPERATOR)
    world.service.unbind("slice", "group", OPERATOR)
    assert not {"detachFlags", "reAttach"} & set(fake_host.calls)


@pytest.mark.parametrize("force", [True, False])
def test_its_parent_stays_on_its_driver(world: World, fake_host: FakeHost, force: bool) -> None:
    made = create(world)
    make_by_hand(fake_host, UUID)
    world.service.register(T4, "whole", {}, OPERATOR)
    service = world.service
    acts: list[Callable[[], Device]] = [
        lambda: service.bind("whole", "device", OPERATOR, force=force),
        lambda: service.attach("whole", "vm-on", "device", OPERATOR, force=force),
    ]
    for act in acts:
        with pytest.raises(InUseError, match="while vGPUs live on it") as refusal:
            act()
        named = sorted(each.message for each in refusal.value.details)
        assert named == sorted(
            [
                f"{made.registration.mdev} (nvidia-230, registered as slice)",
                f"{UUID} (nvidia-230)",
            ]
        )
    checks = world.service.preflight.of_device("whole").checks
    assert [each.id for each in checks if each.severity == "error"] == ["slices"]
    assert fake_host.driver(T4) == "nvidia"
    assert len(fake_host.mediated_devices()) == 2


def test_slices_of_others_are_available_and_registered_as_they_are(
    world: World, fake_host: FakeHost
) -> None:
    mdev = make_by_hand(fake_host, UUID)
    listed = [AvailableDeviceOut.of(each) for each in world.service.inventory.list_available()]
    (free,) = [each for each in listed if each.mdev_uuid is not None]
    assert (free.mdev_uuid, free.mdev_type, free.pci_address) == (UUID, "nvidia-230", T4)
    assert (free.iommu_group, free.registered_as) == (mdev.group, None)
    out = DeviceOut.of(world.service.register_mdev(UUID.upper(), "theirs", {}, OPERATOR))
    assert (out.mdev_uuid, out.profile, out.parent) == (UUID, LARGE, T4)
    with pytest.raises(ConflictError):
        world.service.register_mdev(UUID, "again", {}, OPERATOR)
    world.service.unregister("theirs", OPERATOR)
    assert mdev.active


@pytest.mark.parametrize("uuid", ["no", "", "c2177883-f1bb-47f0-914d-32a22e3a880", "ü"])
def test_what_is_no_uuid_is_refused(world: World, uuid: str) -> None:
    with pytest.raises(DeviceError) as refusal:
        world.service.register_mdev(uuid, None, {}, OPERATOR)
    assert refusal.value.code == "bad_request"


def test_one_that_is_not_there_is_not_found(world: World) -> None:
    with pytest.raises(DeviceNotFoundError, match=UUID):
        world.service.register_mdev(UUID, None, {}, OPERATOR)


def test_one_that_others_ended_can_be_deleted(world: World, fake_host: FakeHost) -> None:
    create(world)
    (mdev,) = fake_host.mediated_devices()
    fake_host.end_mdev(mdev)
    fake_host.undefine_mdev(mdev)
    world.service.unregister("slice", OPERATOR)
    assert world.service.inventory.list_devices({}) == []


@pytest.mark.parametrize("call", ["nodeDeviceDestroy", "nodeDeviceUndefine"])
@pytest.mark.parametrize("fault", ["fails", "loses its reply"])
def test_a_delete_that_fails_leaves_it_as_it_was(
    world: World, fake_host: FakeHost, call: str, fault: str
) -> None:
    create(world, persist=True)
    if fault == "fails":
        fake_host.refuse(call, 38, times=1)
    else:
        fake_host.lose_reply(call)
    with pytest.raises(DeviceError):
        world.service.unregister("slice", OPERATOR)
    out = DeviceOut.of(world.service.inventory.get("slice"))
    assert (out.state, out.persistent) == ("present", True)
    world.service.unregister("slice", OPERATOR)
    assert fake_host.mediated_devices() == []


def test_one_that_something_has_open_is_in_use(world: World, fake_host: FakeHost) -> None:
    create(world)
    fake_host.refuse("nodeDeviceDestroy", 1)
    with pytest.raises(InUseError, match="/dev/vfio"):
        world.service.unregister("slice", OPERATOR)


def test_the_xml_for_virsh_names_the_uuid(world: World) -> None:
    made = create(world)
    xml = world.service.inventory.hostdev_xml("slice", "group")
    assert 'type="mdev"' in xml
    assert f'uuid="{made.registration.mdev}"' in xml


def test_events_name_the_slice_and_its_parent(world: World, fake_host: FakeHost) -> None:
    with world.service.event_feed.listen(None) as events:
        made = create(world)
        seen = [next(events), next(events)]
        world.service.unregister("slice", OPERATOR)
        seen += [next(events), next(events)]
    named = {(each.type, str(each.pci_address), each.mdev) for each in seen if each}
    mdev = made.registration.mdev
    kinds = ("appeared", "registered", "unregistered", "vanished")
    assert named == {(kind, T4, mdev) for kind in kinds}
    assert fake_host.mediated_devices() == []


def test_a_rename_reaches_the_domains_note(world: World) -> None:
    create(world)
    world.service.attach("slice", "vm-on", "device", OPERATOR)
    world.service.relabel("slice", "other", {"team": "ml"}, OPERATOR)
    domain = world.host.find_domain("vm-on")
    assert domain is not None
    assert [each.name for each in world.host.read_metadata(domain)] == ["other"]


def test_a_lost_registration_comes_back_from_the_domain(world: World) -> None:
    made = create(world).registration
    world.service.attach("slice", "vm-on", "device", OPERATOR)
    world.registry.remove(made.host, made.id)
    (recovered,) = recover(world.host, world.registry, lambda: world.now)
    assert recovered.problem is None
    found = world.service.inventory.get(str(made.mdev)).registration
    assert (found.id, found.name, found.vgpu and found.vgpu.profile) == (made.id, "slice", LARGE)


def test_cards_are_followed_beside_vgpus(world: World) -> None:
    made = create(world)
    world.service.register(T4, "whole", {}, OPERATOR)
    assert world.service.follow() == []
    states = {
        each.registration.name: DeviceOut.of(each).state
        for each in world.service.inventory.list_devices({})
    }
    assert states == {"slice": "present", "whole": "present"}
    assert made.registration.fingerprint is None
