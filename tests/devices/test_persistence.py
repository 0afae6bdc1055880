"""A bind that holds over a reboot: what is written, what ends it, and what a start finds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.errors import (
    BadRequestError,
    DeviceError,
    HelperFailedError,
    IdentityChangedError,
    NotSupportedError,
)
from hypeman_libvirt.devices.model import Scope
from tests.fake_helper import FakeRootHelper
from tests.fake_host import FakeHost
from tests.world import OPERATOR, World

L4, GPU, AUDIO, NIC = "0000:a2:00.0", "0000:41:00.0", "0000:41:00.1", "0000:3d:00.0"


def register(world: World, address: str = L4, *, bind: Scope | None = "device") -> None:
    world.service.register(address, "card", {}, OPERATOR, bind, persist=bind is not None)


def rule(address: str, vendor: str, device: str, world: World) -> BootRule:
    node = world.host.node_device(PciAddress.parse(address))
    assert node is not None
    return BootRule(PciAddress.parse(address), vendor, device, node.topology)


def persistent(world: World) -> bool:
    return world.service.inventory.get("card").registration.persistent


def test_a_bind_that_persists_is_a_boot_rule(world: World, root_helper: FakeRootHelper) -> None:
    world.service.register(L4, "card", {}, OPERATOR)
    device = world.service.bind("card", "device", OPERATOR, persist=True)
    assert device.registration.persistent
    assert root_helper.rules == {PciAddress.parse(L4): rule(L4, "10de", "27b8", world)}
    assert persistent(world)


def test_one_that_is_bound_already_persists_from_then_on(
    world: World, root_helper: FakeRootHelper
) -> None:
    world.service.register(L4, "card", {}, OPERATOR, "device")
    assert not persistent(world)
    assert world.service.bind("card", "device", OPERATOR, persist=True).registration.persistent
    assert PciAddress.parse(L4) in root_helper.rules
    world.service.bind("card", "device", OPERATOR)
    assert persistent(world)


def test_a_group_persists_whole_and_ends_with_its_registration(
    world: World, root_helper: FakeRootHelper
) -> None:
    register(world, GPU, bind="group")
    assert {str(each) for each in root_helper.rules} == {GPU, AUDIO}
    world.service.unregister("card", OPERATOR)
    assert root_helper.rules == {}
    assert world.registry.list_boot_rules(world.host.key()) == []


def test_a_sibling_that_is_registered_itself_stays_persistent(
    world: World, root_helper: FakeRootHelper
) -> None:
    register(world, GPU, bind="group")
    world.service.register(AUDIO, "audio", {}, OPERATOR)
    world.service.unregister("card", OPERATOR)
    assert {str(each) for each in root_helper.rules} == {AUDIO}


def test_unbind_ends_it(world: World, root_helper: FakeRootHelper) -> None:
    register(world)
    device = world.service.unbind("card", "device", OPERATOR)
    assert not device.registration.persistent
    assert not persistent(world)
    assert root_helper.rules == {}


def test_without_a_helper_nothing_is_bound_and_nothing_is_said_to_persist(
    world: World, root_helper: FakeRootHelper, fake_host: FakeHost
) -> None:
    world.service.register(L4, "card", {}, OPERATOR)
    root_helper.missing = True
    with pytest.raises(NotSupportedError):
        world.service.bind("card", "device", OPERATOR, persist=True)
    assert fake_host.pci(L4).unbinds == 0
    assert not persistent(world)
    with pytest.raises(NotSupportedError):
        world.service.register(GPU, "gpu", {}, OPERATOR, "group", persist=True)
    assert [each.registration.name for each in world.service.inventory.list_devices({})] == ["card"]
    world.service.bind("card", "device", OPERATOR)
    world.service.unbind("card", "device", OPERATOR)  # what does not persist needs no helper


def test_a_rule_that_cannot_be_removed_keeps_the_device_where_it_is(
    world: World, root_helper: FakeRootHelper, fake_host: FakeHost
) -> None:
    register(world)
    root_helper.missing = True
    for end in (
        lambda: world.service.unbind("card", "device", OPERATOR),
        lambda: world.service.unregister("card", OPERATOR),
    ):
        with pytest.raises(NotSupportedError):
            end()
    assert fake_host.driver(L4) == "vfio-pci"
    assert persistent(world)


def test_a_bind_that_fails_leaves_no_rule(
    world: World, root_helper: FakeRootHelper, fake_host: FakeHost
) -> None:
    world.service.register(L4, "card", {}, OPERATOR)
    fake_host.vfio_refuses(L4)
    with pytest.raises(DeviceError):
        world.service.bind("card", "device", OPERATOR, persist=True)
    assert root_helper.rules == {}
    assert not persistent(world)


def test_an_unbind_that_fails_leaves_the_rule(
    world: World, root_helper: FakeRootHelper, fake_host: FakeHost
) -> None:
    register(world)
    fake_host.driver_refuses(L4)
    with pytest.raises(DeviceError):
        world.service.unbind("card", "device", OPERATOR)
    assert PciAddress.parse(L4) in root_helper.rules
    assert persistent(world)


def test_a_card_on_a_driver_that_is_its_own_provider_would_lose_it(
    world: World, root_helper: FakeRootHelper, fake_host: FakeHost
) -> None:
    world.service.register(L4, "card", {}, OPERATOR)
    fake_host.set_driver(L4, "nvgrace_gpu_vfio_pci")
    with pytest.raises(NotSupportedError, match="would lose it at boot"):
        world.service.bind("card", "device", OPERATOR, persist=True)
    assert root_helper.rules == {}


def test_persist_needs_bind(world: World) -> None:
    with pytest.raises(BadRequestError, match='bind="device"'):
        world.service.register(L4, "card", {}, OPERATOR, persist=True)


def test_other_hardware_gets_no_rule(
    world: World, root_helper: FakeRootHelper, fake_host: FakeHost
) -> None:
    world.service.register(L4, "card", {}, OPERATOR, "device")
    replace_card(fake_host)
    fake_host.set_driver(L4, "vfio-pci")
    with pytest.raises(IdentityChangedError):
        world.service.bind("card", "device", OPERATOR, persist=True)
    assert root_helper.rules == {}


# After a reboot


def reboot(fake_host: FakeHost, driver: str | None, address: str = L4) -> None:
    """Let the card be on a driver, as the host has it before the service starts."""
    fake_host.set_driver(address, driver)
    fake_host.drop_connections()


def replace_card(fake_host: FakeHost) -> None:
    pci = fake_host.pci(L4).element.find("capability[@type='pci']")
    assert pci is not None
    for product in pci.findall("product"):
        product.set("id", "0x2330")


def test_what_is_as_it_should_be_is_left_alone(world: World, fake_host: FakeHost) -> None:
    register(world)
    before = fake_host.pci(L4).unbinds
    assert world.service.reconciler.reconcile() == []
    assert fake_host.pci(L4).unbinds == before


def test_one_without_a_driver_is_bound(world: World, fake_host: FakeHost) -> None:
    register(world)
    reboot(fake_host, None)
    assert world.service.reconciler.reconcile() == []
    assert fake_host.driver(L4) == "vfio-pci"
    assert world.changes[-1].caller.subject == "hypeman-libvirt"


def test_a_gpu_that_its_host_driver_has_is_never_taken_from_it(
    world: World, fake_host: FakeHost
) -> None:
    register(world)
    reboot(fake_host, "nvidia")
    (unmet,) = world.service.reconciler.reconcile()
    assert "card: it is on nvidia" in str(unmet)
    assert "hypeman-libvirt devices bind card" in unmet.why
    assert fake_host.driver(L4) == "nvidia"


@pytest.mark.parametrize(("link", "driver"), [("up", "mlx5_core"), ("down", "vfio-pci")])
def test_a_network_card_is_taken_only_if_the_host_does_not_use_it(
    world: World, fake_host: FakeHost, link: str, driver: str
) -> None:
    fake_host.add_pci(NIC, class_code="020000", driver="mlx5_core", group=60)
    register(world, NIC)
    reboot(fake_host, "mlx5_core", NIC)
    fake_host.add_child(NIC, "net", "ens3", link=link)  # type: ignore[arg-type]
    unmet = world.service.reconciler.reconcile()
    assert fake_host.driver(NIC) == driver
    assert len(unmet) == (driver != "vfio-pci")


def test_a_foreign_card_at_the_address_is_left_alone(world: World, fake_host: FakeHost) -> None:
    register(world)
    replace_card(fake_host)
    reboot(fake_host, None)
    (unmet,) = world.service.reconciler.reconcile()
    assert "10de:2330 is at 0000:a2:00.0 instead of 10de:27b8" in unmet.why
    assert fake_host.driver(L4) is None


def test_a_card_that_is_gone_is_named(world: World, fake_host: FakeHost) -> None:
    register(world)
    fake_host.vanish(L4)
    fake_host.drop_connections()
    (unmet,) = world.service.reconciler.reconcile()
    assert "nothing is at 0000:a2:00.0" in unmet.why


def test_it_compares_again_only_if_libvirt_was_away_or_the_rules_have_changed(
    world: World, fake_host: FakeHost
) -> None:
    register(world)
    assert world.service.reconciler.reconcile() == []
    fake_host.set_driver(L4, None)  # somebody has a reason
    assert world.service.reconciler.reconcile() == []
    assert fake_host.driver(L4) is None
    world.losses += 1
    assert world.service.reconciler.reconcile() == []
    assert fake_host.driver(L4) == "vfio-pci"


def test_a_rule_that_the_host_has_lost_is_written_again(
    world: World, root_helper: FakeRootHelper
) -> None:
    register(world)
    rules = dict(root_helper.rules)
    root_helper.rules.clear()
    assert world.service.reconciler.reconcile() == []
    assert root_helper.rules == rules


def test_a_rule_that_somebody_else_wrote_stays(world: World, root_helper: FakeRootHelper) -> None:
    register(world)
    other = BootRule(PciAddress.parse("0000:05:00.0"), "8086", "1521")
    root_helper.rules[other.address] = other
    assert world.service.reconciler.reconcile() == []
    assert other.address in root_helper.rules


def test_what_the_helper_cannot_say_is_reported(
    world: World, root_helper: FakeRootHelper, fake_host: FakeHost
) -> None:
    register(world)
    root_helper.missing = True
    (unmet,) = world.service.reconciler.reconcile()
    assert "the boot rules are not seen" in unmet.why
    root_helper.missing = False
    root_helper.rules.clear()
    root_helper.refuses_rules = HelperFailedError("disk full")
    world.losses += 1
    (unmet,) = world.service.reconciler.reconcile()
    assert "its boot rule is missing: disk full" in unmet.why
    assert fake_host.driver(L4) == "vfio-pci"


def test_virtual_functions_are_made_again(
    world: World, fake_host: FakeHost, root_helper: FakeRootHelper
) -> None:
    fake_host.add_pci(NIC, class_code="020000", driver="mlx5_core", group=60, max_vfs=8)
    control = world.service.virtual_functions
    control.set(NIC, 2, OPERATOR, persist=True)
    root_helper.set_virtual_functions(PciAddress.parse(NIC), 0, autoprobe=False)  # the reboot
    assert world.service.reconciler.reconcile() == []
    assert len(control.read(NIC).functions) == 2
    root_helper.set_virtual_functions(PciAddress.parse(NIC), 3, autoprobe=False)
    world.losses += 1
    (unmet,) = world.service.reconciler.reconcile()
    assert "it has 3 virtual functions instead of 2" in unmet.why
    assert len(control.read(NIC).functions) == 3


def test_the_rule_of_a_card_that_has_moved_goes_with_it(
    world: World, root_helper: FakeRootHelper, fake_host: FakeHost
) -> None:
    register(world)
    fake_host.add_pci("0000:a3:00.0", driver="vfio-pci", group=83)
    fake_host.vanish(L4)
    there = PciAddress.parse("0000:a3:00.0")
    old = world.service.inventory.get("card").registration
    new = replace(old, pci_address=there, moved_from=old.pci_address)
    assert world.registry.place([(old, new)]) == 1
    assert world.service.reconciler.reconcile() == []
    assert list(root_helper.rules) == [there]
