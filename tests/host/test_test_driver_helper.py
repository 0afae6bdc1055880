"""The demo host's virtual functions, which libvirt's test driver cannot make: in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.errors import DeviceNotFoundError, NotSupportedError

if TYPE_CHECKING:
    from hypeman_libvirt.devices.ports import RootHelper
    from hypeman_libvirt.host.libvirt_host import LibvirtHost

pytestmark = pytest.mark.testdriver
NIC, L4 = PciAddress.parse("0000:3b:00.0"), PciAddress.parse("0000:a2:00.0")


@pytest.fixture
def demo() -> Iterator[LibvirtHost]:
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415
    from hypeman_libvirt.host.test_driver import demo_uri  # noqa: PLC0415

    host = open_host(demo_uri())
    yield host
    host.close()


@pytest.fixture
def helper(demo: LibvirtHost) -> RootHelper:
    assert demo.helper is not None
    return demo.helper


def functions(host: LibvirtHost) -> list[tuple[str, str | None]]:
    """Name those that the cache lists, which must be those of the host itself."""
    listed = {each.address: each for each in host.view.list_node_devices()}
    assert listed == {each.address: each for each in host.read_node_devices()}
    found = [each for each in listed.values() if each.physical_function == NIC]
    assert listed[NIC].virtual_functions == tuple(each.address for each in found)
    assert [host.node_device(each.address) for each in found] == found
    return [(str(each.address), each.driver) for each in found]


def test_it_begins_with_those_of_the_file(demo: LibvirtHost) -> None:
    assert functions(demo) == [("0000:3b:00.2", "vfio-pci"), ("0000:3b:00.3", "mlx5_core")]


def test_they_come_and_go(demo: LibvirtHost, helper: RootHelper) -> None:
    helper.set_virtual_functions(NIC, 7, autoprobe=True)
    made = functions(demo)
    assert [address for address, _ in made[-2:]] == ["0000:3b:00.7", "0000:3b:01.0"]
    assert {driver for _, driver in made} == {"mlx5_core"}
    helper.set_virtual_functions(NIC, 0, autoprobe=False)
    assert functions(demo) == []
    helper.set_virtual_functions(NIC, 1, autoprobe=False)
    assert functions(demo) == [("0000:3b:00.2", None)]
    node = demo.node_device(NIC)
    assert node is not None
    assert (node.autoprobe, node.max_virtual_functions) == (False, 8)


def test_as_many_as_there_are_stay_as_they_are(demo: LibvirtHost, helper: RootHelper) -> None:
    helper.set_virtual_functions(NIC, 2, autoprobe=True)
    assert functions(demo)[0] == ("0000:3b:00.2", "vfio-pci")


def test_one_that_was_made_can_be_bound(demo: LibvirtHost, helper: RootHelper) -> None:
    helper.set_virtual_functions(NIC, 1, autoprobe=False)
    with demo.changes() as changes:
        changes.bind(PciAddress.parse("0000:3b:00.2"))
    assert functions(demo) == [("0000:3b:00.2", "vfio-pci")]


def test_boot_rules_are_noted(helper: RootHelper) -> None:
    rule = BootRule(NIC, "15b3", "101d", virtual_functions=2)
    helper.write_boot_rule(rule)
    assert helper.list_boot_rules() == [rule]
    helper.forget_boot_rule(NIC)
    assert helper.list_boot_rules() == []


def test_what_is_made_up_has_no_config_space_and_no_vgpus(helper: RootHelper) -> None:
    with pytest.raises(NotSupportedError):
        helper.run_release_hook(L4)
    with pytest.raises(NotSupportedError):
        helper.read_config_space(L4)
    with pytest.raises(NotSupportedError):
        helper.set_vgpu_type(L4, 1)
    with pytest.raises(DeviceNotFoundError):
        helper.set_virtual_functions(PciAddress.parse("0000:99:00.0"), 1, autoprobe=False)
