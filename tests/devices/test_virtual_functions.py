"""Virtual functions: how many there are, who has them, and what stands in the way of another."""

from __future__ import annotations

import re

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.errors import (
    BadRequestError,
    BusyError,
    CriticalDeviceError,
    DeviceError,
    HelperFailedError,
    InUseError,
    LibvirtFailedError,
    NotFoundError,
    NotSupportedError,
    NoVirtualFunctionsError,
    VirtualFunctionsEnabledError,
)
from hypeman_libvirt.devices.virtual_functions import VirtualFunctions
from tests.fake_helper import FakeRootHelper, virtual_function
from tests.fake_host import FakeHost
from tests.world import OPERATOR, World

NIC = "0000:3d:00.0"
ADDRESS = PciAddress.parse(NIC)
FIRST, SECOND, THIRD = (str(virtual_function(ADDRESS, number)) for number in range(3))


@pytest.fixture(autouse=True)
def _nic(fake_host: FakeHost) -> None:
    fake_host.add_pci(
        NIC,
        vendor="15b3",
        product="101d",
        class_code="020000",
        driver="mlx5_core",
        group=60,
        max_vfs=8,
    )
    fake_host.add_child(NIC, "net", "ens3")


def make(world: World, count: int, *, autoprobe: bool = False, persist: bool = False) -> list[str]:
    control = world.service.virtual_functions
    return listed(control.set(NIC, count, OPERATOR, autoprobe=autoprobe, persist=persist))


def listed(report: VirtualFunctions) -> list[str]:
    return [str(each.node.address) for each in report.functions]


def test_they_are_made_without_a_host_driver_and_taken_away(
    world: World, fake_host: FakeHost
) -> None:
    assert make(world, 2) == [FIRST, SECOND]
    assert fake_host.driver(FIRST) is None
    assert make(world, 0) == []
    assert fake_host.driver(NIC) == "mlx5_core"


def test_the_report_says_who_has_each(world: World, fake_host: FakeHost) -> None:
    make(world, 2, autoprobe=True)
    world.service.register(FIRST, "vf0", {}, OPERATOR)
    fake_host.virsh_attach("vm-off", SECOND, live=False)
    report = world.service.virtual_functions.read(NIC)
    assert (report.total, report.persistent) == (8, False)
    first, second = report.functions
    assert (first.node.driver, second.assignment and second.assignment.domain.name) == (
        "mlx5_core",
        "vm-off",
    )
    assert first.registration is not None
    assert first.registration.name == "vf0"


def test_a_device_is_found_by_address_node_name_and_registration(world: World) -> None:
    world.service.register(NIC, "nic", {}, OPERATOR)
    for reference in (NIC, ADDRESS.node_device_name, "nic"):
        assert world.service.virtual_functions.read(reference).total == 8
    with pytest.raises(NotFoundError):
        world.service.virtual_functions.read("0000:99:00.0")


@pytest.mark.parametrize("running", [True, False])
def test_one_that_a_domain_has_stays_also_if_it_is_only_defined(
    world: World, fake_host: FakeHost, root_helper: FakeRootHelper, running: bool
) -> None:
    make(world, 3)
    name = "vm-on" if running else "vm-off"
    fake_host.virsh_attach(name, SECOND, live=running)
    asked = list(root_helper.calls)
    for count in (0, 2, 4):
        with pytest.raises(InUseError, match=rf"{re.escape(SECOND)} by domain {name}") as error:
            make(world, count)
        assert [each.code for each in error.value.details] == ["in_use"]
    assert root_helper.calls == asked
    assert make(world, 3) == [FIRST, SECOND, THIRD]  # as it is


def test_one_that_is_registered_does_not_vanish_for_good(world: World) -> None:
    make(world, 3)
    world.service.register(SECOND, "vf1", {}, OPERATOR)
    with pytest.raises(VirtualFunctionsEnabledError, match="vf1"):
        make(world, 1)
    assert make(world, 2) == [FIRST, SECOND]


def test_one_that_the_host_uses_stays(world: World, fake_host: FakeHost) -> None:
    make(world, 2, autoprobe=True)
    fake_host.add_child(FIRST, "net", "ens3v0", mac="52:54:00:aa:00:09")
    with pytest.raises(CriticalDeviceError, match="ens3v0"):
        make(world, 0)


@pytest.mark.parametrize(
    ("device", "count", "error"),
    [
        (NIC, 9, BadRequestError),
        ("0000:a2:00.0", 1, NoVirtualFunctionsError),
        ("0000:a1:01.0", 1, DeviceError),
    ],
    ids=["more than it has", "no SR-IOV", "a bridge"],
)
def test_what_cannot_be_is_refused(
    world: World, root_helper: FakeRootHelper, device: str, count: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        world.service.virtual_functions.set(device, count, OPERATOR)
    assert root_helper.calls == []


def test_a_function_on_vfio_makes_none(world: World, root_helper: FakeRootHelper) -> None:
    world.service.register(NIC, "nic", {}, OPERATOR)
    world.service.bind("nic", "device", OPERATOR, force=True)
    with pytest.raises(NoVirtualFunctionsError, match="is on vfio-pci"):
        make(world, 1)
    assert root_helper.calls == []


def test_what_fails_leaves_as_many_as_there_were(
    world: World, root_helper: FakeRootHelper, fake_host: FakeHost
) -> None:
    make(world, 2)
    root_helper.makes_at_most = 2
    with pytest.raises(LibvirtFailedError, match="should have 5 virtual functions"):
        make(world, 5)
    assert [each.address for each in fake_host.functions() if each.physical_function == NIC] == [
        FIRST,
        SECOND,
    ]


def test_a_lost_answer_of_the_helper_is_undone(
    world: World, root_helper: FakeRootHelper, fake_host: FakeHost
) -> None:
    root_helper.loses_answers = 1
    with pytest.raises(HelperFailedError):
        make(world, 2)
    assert [each for each in fake_host.functions() if each.physical_function == NIC] == []
    assert root_helper.calls[-1] == f"set_virtual_functions {NIC} 0"


def test_without_a_helper_it_says_so_and_changes_nothing(
    world: World, root_helper: FakeRootHelper
) -> None:
    root_helper.missing = True
    with pytest.raises(NotSupportedError, match="no root helper"):
        make(world, 2)
    assert world.service.virtual_functions.read(NIC).functions == []
    assert make(world, 0) == []  # as it is


def test_one_that_is_about_to_be_attached_is_locked(world: World) -> None:
    make(world, 2)
    with world.base.locks.hold([f"device {SECOND}"]), pytest.raises(BusyError):
        make(world, 0)
    with world.base.locks.hold([f"device {NIC}"]), pytest.raises(BusyError):
        make(world, 0)


def test_they_are_made_at_boot_if_that_is_wanted(world: World, root_helper: FakeRootHelper) -> None:
    make(world, 2, persist=True)
    rule = BootRule(
        ADDRESS, "15b3", "101d", f"pci{NIC[:7]}/00.0", virtual_functions=2, autoprobe=False
    )
    assert root_helper.rules == {ADDRESS: rule}
    assert world.service.virtual_functions.read(NIC).persistent
    make(world, 2)
    assert root_helper.rules == {}
    assert not world.service.virtual_functions.read(NIC).persistent


def test_a_rule_that_cannot_be_written_undoes_all(
    world: World, root_helper: FakeRootHelper, fake_host: FakeHost
) -> None:
    make(world, 1, persist=True)
    root_helper.refuses_rules = HelperFailedError("disk full")
    with pytest.raises(HelperFailedError, match="disk full"):
        make(world, 3, persist=True)
    functions = [each.address for each in fake_host.functions() if each.physical_function == NIC]
    assert functions == [FIRST]
    assert root_helper.rules[ADDRESS].virtual_functions == 1
    rule = world.registry.boot_rule(world.host.key(), ADDRESS)
    assert rule is not None
    assert rule.virtual_functions == 1


def test_each_change_is_made_known(world: World) -> None:
    make(world, 1)
    assert [(each.action, each.caller) for each in world.changes] == [
        ("set_virtual_functions", OPERATOR)
    ]
