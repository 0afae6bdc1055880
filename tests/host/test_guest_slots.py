from __future__ import annotations

from hypeman_libvirt.devices.address import HostDeviceId, PciAddress
from hypeman_libvirt.host.xml.domain import DomainXml
from hypeman_libvirt.host.xml.guest_slots import build_hostdevs, shares_slot
from tests.fake_xml import domain_element, show

GPU, AUDIO, NIC = (PciAddress.parse(f"0000:{each}") for each in ("41:00.0", "41:00.1", "3b:00.0"))


def definition(machine: str = "pc-q35-7.2", root_ports: int = 2) -> DomainXml:
    return DomainXml(show(domain_element("vm", machine=machine, root_ports=root_ports)))


def place(
    addresses: list[PciAddress], vm: DomainXml | None = None
) -> dict[HostDeviceId, PciAddress | None]:
    """Say where in the guest each device goes."""
    xml = "".join(build_hostdevs(addresses, vm))
    held = DomainXml(f"<domain><devices>{xml}</devices></domain>").held
    return {each.device: each.guest_address for each in held}


def test_a_device_alone_goes_where_libvirt_likes() -> None:
    assert place([NIC], definition()) == {NIC: None}


def test_functions_of_one_card_stay_together() -> None:
    assert place([AUDIO, GPU], definition()) == {
        GPU: PciAddress(0, 1, 0, 0),
        AUDIO: PciAddress(0, 1, 0, 1),
    }


def test_only_function_0_announces_more_functions() -> None:
    first, second = build_hostdevs([GPU, AUDIO], definition())
    assert 'multifunction="on"' in first
    assert "multifunction" not in second


def test_cards_of_one_group_stay_apart() -> None:
    assert place([GPU, AUDIO, NIC], definition())[NIC] is None


def test_functions_without_a_0_get_one() -> None:
    second = PciAddress(0, 0x41, 0, 2)
    assert place([AUDIO, second], definition()) == {
        AUDIO: PciAddress(0, 1, 0, 0),
        second: PciAddress(0, 1, 0, 1),
    }


def test_taken_ports_are_left_out_and_new_ones_spoken_of() -> None:
    vm = definition(root_ports=1)
    full = DomainXml(vm.with_hostdevs(build_hostdevs([GPU, AUDIO], vm)))
    other = [PciAddress(0, 0x61, 0, 0), PciAddress(0, 0x61, 0, 1)]
    assert list(place(other, full).values()) == [PciAddress(0, 2, 0, 0), PciAddress(0, 2, 0, 1)]


def test_an_i440fx_machine_has_slots_on_its_only_bus() -> None:
    assert place([GPU, AUDIO], definition("pc-i440fx-7.2"))[GPU] == PciAddress(0, 0, 2, 0)


def test_without_controllers_libvirt_chooses() -> None:
    vm = DomainXml("<domain><devices/></domain>")
    assert place([GPU, AUDIO], vm) == {GPU: None, AUDIO: None}


def test_without_a_domain_a_slot_is_proposed() -> None:
    assert place([GPU, AUDIO]) == {GPU: PciAddress(0, 0, 16, 0), AUDIO: PciAddress(0, 0, 16, 1)}


def test_who_shares_a_slot() -> None:
    vm = definition()
    together = DomainXml(vm.with_hostdevs(build_hostdevs([GPU, AUDIO, NIC], vm)))
    assert shares_slot(together, GPU)
    assert shares_slot(together, AUDIO)
    assert not shares_slot(together, NIC)
    assert not shares_slot(vm, GPU)
