"""What only the fake can show: hot-plug, failures half-way, hosts that vanish."""

from __future__ import annotations

import logging
import threading

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.domain import Domain
from hypeman_libvirt.devices.errors import (
    BusyError,
    InUseError,
    LibvirtFailedError,
    LibvirtUnavailableError,
    NoFreeSlotError,
    NotSupportedError,
    VfioUnavailableError,
)
from hypeman_libvirt.host.libvirt_host import LibvirtHost, open_host
from tests import fake_libvirt
from tests.fake_host import FakeHost
from tests.fake_xml import held

L4, GPU, AUDIO, NIC = (
    PciAddress.parse(f"0000:{each}") for each in ("a2:00.0", "41:00.0", "41:00.1", "3b:00.0")
)


def domain(host: LibvirtHost, name: str) -> Domain:
    found = host.find_domain(name)
    assert found is not None
    return found


def attach(host: LibvirtHost, name: str, *addresses: PciAddress) -> None:
    with host.changes() as changes:
        changes.attach(domain(host, name), addresses)


def detach(host: LibvirtHost, name: str, *addresses: PciAddress) -> None:
    with host.changes() as changes:
        changes.detach(domain(host, name), addresses)


def has(fake_host: FakeHost, name: str) -> tuple[set[str], set[str]]:
    """Return what a domain holds now and what after its next start."""
    guest = fake_host.guest(name)
    return held(guest.live), held(guest.config)


def test_changes_have_a_connection_of_their_own(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    libvirt_host.ping()
    with libvirt_host.changes() as changes:
        changes.bind(L4)
        assert fake_host.open_connections == 2
    assert fake_host.open_connections == 1


def test_reads_go_on_while_a_driver_hangs(fake_host: FakeHost, libvirt_host: LibvirtHost) -> None:
    def bind() -> None:
        with libvirt_host.changes() as changes:
            changes.bind(L4)

    with fake_host.hang("detachFlags") as hang:
        worker = threading.Thread(target=bind)
        worker.start()
        assert hang.entered.wait(10)
        assert len(libvirt_host.list_node_devices()) == 6
    worker.join(10)
    assert fake_host.driver("0000:a2:00.0") == "vfio-pci"


def test_a_group_goes_into_a_running_domain_each_in_a_slot_of_its_own(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    with libvirt_host.changes() as changes:
        changes.bind(AUDIO)
    attach(libvirt_host, "vm-on", GPU, AUDIO)
    both = {str(GPU), str(AUDIO)}
    assert has(fake_host, "vm-on") == (both, both)
    detach(libvirt_host, "vm-on", GPU, AUDIO)
    assert has(fake_host, "vm-on") == (set(), set())


def test_a_group_that_does_not_fit_stays_out_altogether(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.add_domain("small", root_ports=1, running=True)
    with libvirt_host.changes() as changes:
        changes.bind(AUDIO)
    with pytest.raises(NoFreeSlotError, match="pcie-root-port"):
        attach(libvirt_host, "small", GPU, AUDIO)
    assert has(fake_host, "small") == (set(), set())
    assert fake_host.driver(str(GPU)) == "nvidia"


@pytest.mark.parametrize(
    ("name", "successes"), [("vm-off", 0), ("vm-off", 1), ("vm-on", 1), ("vm-on", 2), ("vm-on", 3)]
)
def test_a_failure_half_way_is_undone(
    fake_host: FakeHost, libvirt_host: LibvirtHost, name: str, successes: int
) -> None:
    with libvirt_host.changes() as changes:
        changes.bind(AUDIO)
    before = domain(libvirt_host, name)
    with libvirt_host.changes() as changes:
        fake_host.fail_after("attachDeviceFlags", successes, 38, 0)
        with pytest.raises(LibvirtFailedError):
            changes.attach(before, [GPU, AUDIO])
    assert has(fake_host, name) == (set(), set())


@pytest.mark.parametrize("successes", range(4))
def test_a_detach_that_fails_half_way_is_undone(
    fake_host: FakeHost, libvirt_host: LibvirtHost, successes: int
) -> None:
    attach(libvirt_host, "vm-on", L4, NIC)
    fake_host.fail_after("detachDeviceFlags", successes, 38, 0)
    with pytest.raises(LibvirtFailedError):
        detach(libvirt_host, "vm-on", L4, NIC)
    both = {str(L4), str(NIC)}
    assert has(fake_host, "vm-on") == (both, both)


def test_what_another_running_domain_uses_goes_nowhere(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    attach(libvirt_host, "vm-on", L4)
    fake_host.add_domain("other", running=True)
    with pytest.raises(InUseError):
        attach(libvirt_host, "other", L4)
    assert has(fake_host, "other") == (set(), set())


def test_only_the_missing_half_is_attached(fake_host: FakeHost, libvirt_host: LibvirtHost) -> None:
    fake_host.virsh_attach("vm-on", str(L4), live=False)
    attach(libvirt_host, "vm-on", L4)
    assert has(fake_host, "vm-on") == ({str(L4)}, {str(L4)})


def test_a_transient_domain_has_only_a_live_half(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.add_domain("transient", running=True, persistent=False)
    attach(libvirt_host, "transient", L4)
    (assignment,) = libvirt_host.list_assignments()[L4]
    assert (assignment.live, assignment.persistent, assignment.domain.persistent) == (
        True,
        False,
        False,
    )
    detach(libvirt_host, "transient", L4)
    assert not libvirt_host.list_assignments()


def test_a_silent_guest_keeps_the_device_and_the_call_returns(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    attach(libvirt_host, "vm-on", L4)
    fake_host.guest_ignores_unplug("vm-on")
    detach(libvirt_host, "vm-on", L4)
    assert has(fake_host, "vm-on") == ({str(L4)}, set())


def test_functions_that_share_a_guest_slot_are_marked_while_the_guest_runs(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    attach(libvirt_host, "vm-off", GPU, AUDIO)

    def shared() -> set[bool]:
        assignments = libvirt_host.read_assignments([GPU, AUDIO]).values()
        return {each.shares_slot for of_device in assignments for each in of_device}

    assert shared() == {False}
    fake_host.virsh_start("vm-off")
    assert shared() == {True}


def test_a_driver_without_hot_plug_changes_the_definition(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.refuse("attachDeviceFlags", 3)
    fake_host.refuse("detachDeviceFlags", 3)
    attach(libvirt_host, "vm-on", GPU, AUDIO)
    assert has(fake_host, "vm-on") == (set(), {str(GPU), str(AUDIO)})
    detach(libvirt_host, "vm-on", GPU, AUDIO)
    assert has(fake_host, "vm-on") == (set(), set())


def test_a_transient_domain_needs_hot_plug(fake_host: FakeHost, libvirt_host: LibvirtHost) -> None:
    fake_host.add_domain("transient", running=True, persistent=False)
    fake_host.refuse("attachDeviceFlags", 3)
    with pytest.raises(NotSupportedError):
        attach(libvirt_host, "transient", L4)


def test_vfio_that_does_not_load(fake_host: FakeHost, libvirt_host: LibvirtHost) -> None:
    fake_host.refuse("detachFlags", 1, 22)
    with libvirt_host.changes() as changes, pytest.raises(VfioUnavailableError):
        changes.bind(L4)
    assert fake_host.driver(str(L4)) == "nvidia"


def test_a_locked_domain_is_busy(fake_host: FakeHost, libvirt_host: LibvirtHost) -> None:
    fake_host.refuse("attachDeviceFlags", 68)
    with pytest.raises(BusyError):
        attach(libvirt_host, "vm-on", L4)


def test_the_device_in_use_is_named_by_its_code(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.virsh_attach("vm-on", str(L4))
    with libvirt_host.changes() as changes, pytest.raises(InUseError):
        changes.unbind(L4)


def test_no_change_is_tried_twice_on_a_lost_connection(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    with libvirt_host.changes() as changes:
        fake_host.refuse("detachFlags", 38, 7, times=1)
        with pytest.raises(LibvirtUnavailableError):
            changes.bind(L4)
    assert fake_host.calls["detachFlags"] == 1
    assert fake_host.driver(str(L4)) == "nvidia"


@pytest.mark.parametrize("still_listed", [False, True])
def test_a_device_that_vanishes_is_left_out(
    fake_host: FakeHost, libvirt_host: LibvirtHost, still_listed: bool
) -> None:
    fake_host.vanish(str(L4), still_listed=still_listed)
    assert L4 not in [each.address for each in libvirt_host.list_node_devices()]
    assert libvirt_host.node_device(L4) is None


def test_one_unreadable_device_hides_no_other(
    fake_host: FakeHost, libvirt_host: LibvirtHost, caplog: pytest.LogCaptureFixture
) -> None:
    fake_host.add_pci("0000:99:00.0", class_code="not hex")
    with caplog.at_level(logging.WARNING):
        assert len(libvirt_host.list_node_devices()) == 6
    assert "pci_0000_99_00_0" in caplog.text
    with pytest.raises(LibvirtFailedError, match="pci_0000_99_00_0"):
        libvirt_host.node_device(PciAddress.parse("0000:99:00.0"))


def test_a_device_is_found_under_any_name(fake_host: FakeHost, libvirt_host: LibvirtHost) -> None:
    fake_host.add_pci("0000:99:00.0", name="pci_somewhere")
    device = libvirt_host.node_device(PciAddress.parse("0000:99:00.0"))
    assert device is not None
    assert device.node_name == "pci_somewhere"
    with libvirt_host.changes() as changes:
        changes.bind(device.address)
    assert fake_host.driver("0000:99:00.0") == "vfio-pci"


def test_another_device_under_the_usual_name_is_not_taken_for_it(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.add_pci("0000:98:00.0", name="pci_0000_99_00_0")
    assert libvirt_host.node_device(PciAddress.parse("0000:99:00.0")) is None


def test_a_uuid_comes_before_a_name_and_a_name_before_an_instance_id(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    uuid = domain(libvirt_host, "vm-on").uuid
    fake_host.add_domain(uuid)
    fake_host.add_domain("a", instance_id="vm-off")
    fake_host.add_domain("b", instance_id="i-1", numa="0-1")
    assert domain(libvirt_host, uuid).name == "vm-on"
    assert domain(libvirt_host, "vm-off").name == "vm-off"
    assert domain(libvirt_host, "i-1").name == "b"
    assert domain(libvirt_host, "i-1").numa_nodes == {0, 1}


def test_vfio_is_what_the_hypervisor_lists(libvirt_host: LibvirtHost, fake_host: FakeHost) -> None:
    assert libvirt_host.has_vfio() is True
    fake_host.refuse("getDomainCapabilities", 3)
    assert libvirt_host.has_vfio() is None
    fake_host.refuse("getDomainCapabilities", 38, 7)
    with pytest.raises(LibvirtUnavailableError):
        libvirt_host.has_vfio()


@pytest.mark.usefixtures("fake_host")
def test_a_host_without_an_iommu_has_no_vfio() -> None:
    fake = FakeHost(iommu=False)
    fake.add_pci(str(L4), driver="nvidia", group=82)
    fake_libvirt.serve(fake)
    host = open_host(fake.uri)
    assert host.has_vfio() is False
    device = host.node_device(L4)
    assert device is not None
    assert device.iommu_group is None
    with host.changes() as changes, pytest.raises(VfioUnavailableError):
        changes.bind(L4)
    host.close()
    fake_libvirt.forget(fake)


def test_everything_is_unavailable_while_libvirt_is_down(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    key = libvirt_host.key()
    fake_host.down()
    for call in (
        libvirt_host.ping,
        libvirt_host.list_node_devices,
        libvirt_host.list_assignments,
        libvirt_host.list_domains,
        lambda: libvirt_host.find_domain("vm-on"),
        lambda: libvirt_host.node_device(L4),
    ):
        with pytest.raises(LibvirtUnavailableError):
            call()
    assert libvirt_host.key() == key


def test_virsh_beside_the_service_is_simply_true(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.virsh_attach("vm-off", str(L4), live=False)
    assert [each.domain.name for each in libvirt_host.list_assignments()[L4]] == ["vm-off"]
    fake_host.virsh_start("vm-off")
    (assignment,) = libvirt_host.list_assignments()[L4]
    device = libvirt_host.node_device(L4)
    assert device is not None
    assert (assignment.live, assignment.domain.state, device.driver) == (
        True,
        "running",
        "vfio-pci",
    )
    fake_host.virsh_destroy("vm-off")
    fake_host.virsh_undefine("vm-off")
    assert L4 not in libvirt_host.list_assignments()
