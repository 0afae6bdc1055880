"""A network card's virtual function as an interface of a guest, with MAC and VLAN."""

from __future__ import annotations

import pytest

from hypeman_libvirt.devices.domain import GuestInterface
from hypeman_libvirt.devices.errors import (
    BadRequestError,
    DeviceError,
    LinkDownError,
    NoVirtualFunctionsError,
)
from tests.fake_host import FakeHost
from tests.fake_xml import show
from tests.world import OPERATOR, World

NIC, VF, L4 = "0000:3d:00.0", "0000:3d:02.0", "0000:a2:00.0"
WANTED = GuestInterface("52:54:00:12:34:56", 42)


@pytest.fixture(autouse=True)
def _functions(fake_host: FakeHost, world: World) -> None:
    fake_host.add_pci(
        NIC,
        vendor="15b3",
        product="101d",
        class_code="020000",
        driver="mlx5_core",
        group=60,
        max_vfs=8,
    )
    world.service.virtual_functions.set(NIC, 2, OPERATOR)
    world.service.register(VF, "vf", {}, OPERATOR)
    world.service.register(L4, "l4", {}, OPERATOR)


def attach(
    world: World, domain: str, interface: GuestInterface | None = WANTED, device: str = "vf"
) -> None:
    world.service.attach(device, domain, "device", OPERATOR, interface=interface)


@pytest.mark.parametrize("domain", ["vm-on", "vm-off"])
def test_the_guest_gets_an_interface_and_gives_it_back(
    world: World, fake_host: FakeHost, domain: str
) -> None:
    fake_host.add_child(NIC, "net", "ens3")
    attach(world, domain)
    guest = fake_host.guest(domain)
    for definition in (guest.config, guest.live) if guest.active else (guest.config,):
        assert definition is not None
        (interface,) = definition.findall("devices/interface[@type='hostdev']")
        assert interface.get("managed") == "yes"
        assert interface.find("mac[@address='52:54:00:12:34:56']") is not None
        assert interface.find("vlan/tag[@id='42']") is not None
    device = world.service.inventory.get("vf")
    assert device.assignment is not None
    assert device.assignment.kind == "interface"
    world.service.detach("vf", OPERATOR)
    assert guest.config is not None
    assert "<interface" not in show(guest.config)
    assert world.service.inventory.get("vf").assignment is None


def test_a_vlan_alone_leaves_the_address_to_libvirt(world: World, fake_host: FakeHost) -> None:
    attach(world, "vm-off", GuestInterface(vlan=7))
    config = fake_host.guest("vm-off").config
    assert config is not None
    assert "mac address" not in show(config)
    assert config.find("devices/interface/vlan/tag[@id='7']") is not None


def test_a_physical_function_that_is_down_is_named_before(
    world: World, fake_host: FakeHost
) -> None:
    fake_host.add_child(NIC, "net", "ens3", link="down")
    before = [fake_host.calls[each] for each in ("attachDeviceFlags", "setMetadata")]
    with pytest.raises(LinkDownError, match=f"ens3 of {NIC} is down; ip link set dev ens3 up"):
        attach(world, "vm-on")
    assert [fake_host.calls[each] for each in ("attachDeviceFlags", "setMetadata")] == before
    checks = {each.id: each for each in world.service.preflight.of_device("vf").checks}
    assert (checks["link"].severity, checks["link"].hint) == (
        "warning",
        "ip link set dev ens3 up",
    )
    attach(world, "vm-on", None)  # a plain device needs no link


def test_what_is_no_function_of_a_network_card_gets_none(world: World) -> None:
    with pytest.raises(NoVirtualFunctionsError, match="no virtual function of a network card"):
        attach(world, "vm-off", device="l4")


@pytest.mark.parametrize(
    ("interface", "said"),
    [
        (GuestInterface("53:54:00:12:34:56"), "no MAC address"),
        (GuestInterface("52-54-00-12-34-56"), "no MAC address"),
        (GuestInterface("52:54:00:12:34:56:78"), "no MAC address"),
        (GuestInterface(vlan=0), "out of range"),
        (GuestInterface(vlan=4095), "out of range"),
    ],
)
def test_what_no_interface_can_have_is_refused(
    world: World, interface: GuestInterface, said: str
) -> None:
    with pytest.raises(BadRequestError, match=said):
        attach(world, "vm-off", interface)


def test_an_interface_is_one_device(world: World, fake_host: FakeHost) -> None:
    fake_host.pci("0000:3d:02.1").group = fake_host.pci(VF).group
    with pytest.raises(BadRequestError, match="scope=device"):
        world.service.attach("vf", "vm-off", "group", OPERATOR, interface=WANTED)


def test_what_fails_is_undone(world: World, fake_host: FakeHost) -> None:
    fake_host.refuse("attachDeviceFlags", 1, 10)
    with pytest.raises(DeviceError):
        attach(world, "vm-on")
    fake_host.allow("attachDeviceFlags")
    assert world.service.inventory.get("vf").assignment is None
