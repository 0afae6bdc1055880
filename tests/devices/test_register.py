from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from hypeman_libvirt.devices.errors import RegistryUnavailableError
from hypeman_libvirt.devices.model import Caller, Registration
from hypeman_libvirt.registry import SqlRegistry
from tests.devices.test_bind import ALONE, GPU, refusal
from tests.devices.test_decisions import service_on
from tests.fake_host import FakeHost
from tests.world import OPERATOR, World

RETRY = Caller("operator", is_retry=True)


def test_a_name_follows_from_the_address(world: World) -> None:
    device = world.service.register("0000:A2:00.0", None, {"team": "ml"}, OPERATOR)
    registration = device.registration
    assert registration.name == "pci-0000-a2-00-0"
    assert str(registration.pci_address) == ALONE
    assert (registration.vendor_id, registration.device_id) == ("10de", "27b8")
    assert (registration.iommu_group, registration.host_driver) == (82, "nvidia")
    assert dict(registration.tags) == {"team": "ml"}


@pytest.mark.parametrize(
    "reference", ["l4-gpu", ALONE, "0000:A2:00.0", "pci_0000_a2_00_0", "id0000000000000000000001"]
)
def test_a_device_is_found_by_id_name_address_and_node_name(world: World, reference: str) -> None:
    device = world.service.register(ALONE, "l4-gpu", {}, OPERATOR)
    assert world.service.inventory.get(reference) == device


@pytest.mark.parametrize("reference", ["l4", "l4-gpu2", "", "..", "\0", GPU, "pci_0000_41_00_0"])
def test_what_is_not_registered_is_not_found(world: World, reference: str) -> None:
    world.service.register(ALONE, "l4-gpu", {}, OPERATOR)
    with refusal("not_found"):
        world.service.inventory.get(reference)


def test_the_checks_come_in_hypemans_order(world: World, fake_host: FakeHost) -> None:
    world.service.register(ALONE, "l4-gpu", {}, OPERATOR)
    fake_host.add_pci("0000:99:00.0", driver="nvidia")
    bad_tags = {"ü": ""}
    ordered = [
        ("x", "../y", bad_tags, "invalid_name"),
        ("x", "ok-name", bad_tags, "invalid_tags"),
        ("x", "l4-gpu", {}, "invalid_pci_address"),
        ("0000:77:00.0", "l4-gpu", {}, "device_not_found"),
        ("0000:a1:01.0", "l4-gpu", {}, "not_assignable"),
        ("0000:99:00.0", "l4-gpu", {}, "iommu_unavailable"),
        (GPU, "l4-gpu", {}, "conflict"),
        (ALONE, "other", {}, "conflict"),
    ]
    for address, name, tags, code in ordered:
        with refusal(code):
            world.service.register(address, name, tags, OPERATOR)
    assert len(world.service.inventory.list_devices({})) == 1


def test_a_name_that_is_anothers_id_is_refused(world: World) -> None:
    first = world.service.register(ALONE, "l4-gpu", {}, OPERATOR)
    with refusal("conflict"):
        world.service.register(GPU, first.registration.id, {}, OPERATOR)


def test_a_repeated_request_whose_answer_was_lost_gets_the_record(world: World) -> None:
    first = world.service.register(ALONE, "l4-gpu", {}, OPERATOR)
    world.pass_time(30)
    assert world.service.register(ALONE, "l4-gpu", {}, RETRY) == first


class _LosesReplies(SqlRegistry):
    """Stores a registration, and fails before it can say so."""

    def add(self, registration: Registration) -> None:
        super().add(registration)
        raise RegistryUnavailableError("the reply was lost")


class _IsLost(_LosesReplies):
    """Cannot be written any more afterwards."""

    def remove(self, host: str, registration_id: str) -> bool:
        raise RegistryUnavailableError(f"{registration_id} of {host} cannot be removed")


def _register_and_bind(registry: SqlRegistry, world: World) -> None:
    with closing(registry), pytest.raises(RegistryUnavailableError, match="reply was lost"):
        service_on(world, registry=registry).register(ALONE, None, {}, OPERATOR, bind="device")


def test_a_registration_whose_reply_was_lost_is_undone_with_its_bind(
    world: World, tmp_path: Path
) -> None:
    _register_and_bind(_LosesReplies(tmp_path / "registry.db"), world)
    assert world.service.inventory.list_devices({}) == []


def test_an_undo_that_fails_leaves_the_first_error_and_a_line_in_the_log(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _register_and_bind(_IsLost(tmp_path / "registry.db"), world)
    (line,) = [each for each in caplog.records if "could not remove" in each.message]
    assert line.__dict__["pci_address"] == ALONE


@pytest.mark.parametrize("set_back", [61, 3600, 86400 * 365])
def test_a_clock_that_was_set_back_makes_no_request_a_repetition(
    world: World, set_back: float
) -> None:
    world.service.register(ALONE, "l4-gpu", {}, OPERATOR)
    world.pass_time(-set_back)
    with refusal("conflict"):
        world.service.register(ALONE, "l4-gpu", {}, RETRY)


def test_a_name_is_not_taken_for_another_devices_node_name(world: World) -> None:
    with refusal("invalid_name"):
        world.service.register(ALONE, "pci_0000_41_00_0", {}, OPERATOR)
    assert world.service.inventory.list_devices({}) == []


def test_of_a_misleading_name_from_before_the_name_wins_and_the_log_says_so(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    new = world.service.register(ALONE, "l4-gpu", {}, OPERATOR).registration
    world.registry.remove(new.host, new.id)
    world.registry.add(replace(new, name="pci_0000_41_00_0"))
    world.service.register(GPU, "h100", {}, OPERATOR)
    found = world.service.inventory.get("pci_0000_41_00_0").registration
    assert str(found.pci_address) == ALONE
    assert f"'pci_0000_41_00_0' is the name of the device at {ALONE}" in caplog.text
    caplog.clear()
    assert str(world.service.inventory.get(GPU).registration.pci_address) == GPU
    assert not caplog.text


def test_a_conflict_that_only_looks_like_a_repetition_stays_one(world: World) -> None:
    world.service.register(ALONE, "l4-gpu", {}, OPERATOR)
    for name, caller in (("other", RETRY), ("l4-gpu", Caller("else", is_retry=True))):
        with refusal("conflict"):
            world.service.register(ALONE, name, {}, caller)
    world.pass_time(61)
    with refusal("conflict"):
        world.service.register(ALONE, "l4-gpu", {}, RETRY)


def test_a_device_that_vanishes_stays_registered_and_says_so(
    world: World, fake_host: FakeHost
) -> None:
    world.service.register(ALONE, "l4-gpu", {}, OPERATOR)
    fake_host.vanish(ALONE, still_listed=True)
    device = world.service.inventory.get("l4-gpu")
    assert device.node is None
    assert [each.node for each in world.service.inventory.list_devices({})] == [None]
    world.service.unregister("l4-gpu", OPERATOR)
    assert world.service.inventory.list_devices({}) == []


def test_available_lists_endpoints_in_a_group_and_who_has_them(
    world: World, fake_host: FakeHost
) -> None:
    world.service.register(ALONE, "l4-gpu", {}, OPERATOR)
    fake_host.virsh_attach("vm-off", ALONE, live=False)
    available = {str(each.node.address): each for each in world.service.inventory.list_available()}
    assert set(available) == {ALONE, GPU, "0000:41:00.1", "0000:3b:00.0"}
    gpu = available[ALONE]
    assert gpu.registration is not None
    assert gpu.assignment is not None
    assert available[GPU].registration is None


def test_tags_must_all_match(world: World) -> None:
    world.service.register(ALONE, "one", {"team": "ml", "env": "prod"}, OPERATOR)
    world.service.register(GPU, "two", {"team": "ml"}, OPERATOR)

    def names(**tags: str) -> list[str]:
        return [each.registration.name for each in world.service.inventory.list_devices(tags)]

    assert names() == ["one", "two"]
    assert names(team="ml") == ["one", "two"]
    assert names(team="ml", env="prod") == ["one"]
    assert names(team="ops") == []


def test_groups_say_who_stands_in_the_way(world: World, fake_host: FakeHost) -> None:
    world.service.register(GPU, "h100", {}, OPERATOR)
    group = world.service.inventory.get_group(25)
    assert not group.viable
    assert group.reason is not None
    assert "0000:41:00.1 (audio, driver snd_hda_intel)" in group.reason
    assert [each.registration.name for each in group.members if each.registration] == ["h100"]
    world.service.bind("h100", "group", OPERATOR)
    assert world.service.inventory.get_group(25).viable
    with refusal("not_found"):
        world.service.inventory.get_group(4711)
    assert [each.number for each in world.service.inventory.list_groups()] == [25, 30, 81, 82]
    assert fake_host.driver(GPU) == "vfio-pci"
