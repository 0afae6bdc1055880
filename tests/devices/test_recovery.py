from __future__ import annotations

from datetime import UTC, datetime

from hypeman_libvirt.devices.recovery import recover
from hypeman_libvirt.host.libvirt_host import LibvirtHost
from hypeman_libvirt.host.xml.domain import DEVICES_NAMESPACE
from tests.devices.test_bind import ALONE, GPU, register
from tests.fake_host import FakeHost
from tests.world import OPERATOR, World

DAMAGED = f"""
<domain type='kvm'><name>{{}}</name><metadata>
<hypeman:devices xmlns:hypeman='{DEVICES_NAMESPACE}'><device name='x'/></hypeman:devices>
</metadata><devices/></domain>
"""
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_lost_registrations_come_back_with_their_ids_and_names(
    world: World, libvirt_host: LibvirtHost
) -> None:
    lost = register(world, ALONE, "l4-gpu").registration
    world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)
    world.registry.remove(lost.host, lost.id)
    assert [each.problem for each in recover(libvirt_host, world.registry, lambda: NOW)] == [None]
    back = world.service.inventory.get("l4-gpu").registration
    assert (back.id, back.pci_address, back.created_at) == (lost.id, lost.pci_address, NOW)


def test_what_is_registered_stays_and_what_is_gone_is_named(
    world: World, fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    kept = register(world, ALONE, "l4-gpu")
    world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)
    gone = register(world, GPU, "h100").registration
    world.service.attach("h100", "vm-off", "group", OPERATOR)
    world.registry.remove(gone.host, gone.id)
    fake_host.vanish(GPU)
    problems = {
        each.entry.name if each.entry else "": each.problem or ""
        for each in recover(libvirt_host, world.registry, lambda: NOW)
    }
    assert "registered already as 'l4-gpu'" in problems["l4-gpu"]
    assert problems["h100"] == f"no PCI device is at {GPU} now"
    assert world.service.inventory.get("l4-gpu").registration == kept.registration


def test_a_damaged_note_is_named_and_later_domains_are_recovered(
    world: World, fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    lost = register(world, ALONE, "l4-gpu").registration
    world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)
    world.registry.remove(lost.host, lost.id)
    fake_host.add_domain_xml(DAMAGED.format("a-first"))
    fake_host.add_domain_xml(DAMAGED.format("z-last"))
    recovered = recover(libvirt_host, world.registry, lambda: NOW)
    problems = {each.domain: each.problem or "" for each in recovered}
    assert problems["vm-off"] == ""
    for name in ("a-first", "z-last"):
        assert problems[name].startswith("its metadata cannot be read: ")
    assert world.service.inventory.get("l4-gpu").registration.id == lost.id


def test_what_could_not_be_registered_is_not_recovered(
    world: World, fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    lost = register(world, ALONE, "l4-gpu").registration
    world.service.attach("l4-gpu", "vm-off", "device", OPERATOR)
    world.registry.remove(lost.host, lost.id)
    fake_host.switch_iommu_off()
    [recovered] = recover(libvirt_host, world.registry, lambda: NOW)
    assert (recovered.problem or "").startswith(f"{ALONE} is in no IOMMU group")
    assert world.service.inventory.list_devices({}) == []
