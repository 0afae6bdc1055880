"""What libvirt 9.0 did on a host with VFIO, as the fake does it: each hazard once.

libvirt's test driver has none of these calls, so they were measured on a real libvirtd.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests import fake_libvirt
from tests.fake_host import FakeHost
from tests.fake_libvirt import libvirtError

L4, GPU, AUDIO, NIC, PORT = (
    "0000:a2:00.0",
    "0000:41:00.0",
    "0000:41:00.1",
    "0000:3b:00.0",
    "0000:a1:01.0",
)


@pytest.fixture
def connection(fake_host: FakeHost) -> fake_libvirt.virConnect:
    return fake_libvirt.open(fake_host.uri)


def node(connection: fake_libvirt.virConnect, address: str) -> fake_libvirt.virNodeDevice:
    name = "pci_" + address.replace(":", "_").replace(".", "_")
    return connection.nodeDeviceLookupByName(name)


def code_of(call: Callable[[], object]) -> tuple[int | None, int | None]:
    with pytest.raises(libvirtError) as caught:
        call()
    return caught.value.get_error_code(), caught.value.get_error_domain()


def test_detach_and_reattach_move_the_driver(
    fake_host: FakeHost, connection: fake_libvirt.virConnect
) -> None:
    node(connection, NIC).detachFlags("vfio", 0)
    assert fake_host.driver(NIC) == "vfio-pci"
    assert "net_ens1_52_54_00_aa_00_01" not in [d.name() for d in connection.listAllDevices(0)]
    node(connection, NIC).reAttach()
    assert fake_host.driver(NIC) == "mlx5_core"
    assert "net_ens1_52_54_00_aa_00_01" in [d.name() for d in connection.listAllDevices(0)]


def test_hazard_1_success_without_a_driver(
    fake_host: FakeHost, connection: fake_libvirt.virConnect
) -> None:
    fake_host.vfio_refuses(L4)
    fake_host.driver_refuses(AUDIO)
    assert node(connection, PORT).detachFlags("vfio", 0) == 0
    assert node(connection, L4).detachFlags("vfio", 0) == 0
    node(connection, AUDIO).detachFlags("vfio", 0)
    assert node(connection, AUDIO).reAttach() == 0
    assert [fake_host.driver(each) for each in (PORT, L4, AUDIO)] == [None, None, None]


def test_hazard_1_a_physical_function_with_virtual_ones(
    fake_host: FakeHost, connection: fake_libvirt.virConnect
) -> None:
    fake_host.add_pci("0000:3b:00.2", physical_function=NIC, group=31, driver="mlx5_core")
    assert node(connection, NIC).detachFlags("vfio", 0) == 0
    assert fake_host.driver(NIC) is None


def test_hazard_2_reattach_bounces_a_device_that_is_on_its_host_driver(
    fake_host: FakeHost, connection: fake_libvirt.virConnect
) -> None:
    assert node(connection, NIC).reAttach() == 0
    assert (fake_host.pci(NIC).unbinds, fake_host.pci(NIC).probes) == (1, 1)


def test_hazard_4_a_start_fails_late_when_a_sibling_is_on_a_host_driver(
    fake_host: FakeHost,
) -> None:
    fake_host.virsh_attach("vm-off", GPU, live=False)
    assert code_of(lambda: fake_host.virsh_start("vm-off")) == (1, 10)
    assert fake_host.driver(GPU) == "nvidia"


def test_hazard_4_giving_a_sibling_back_while_the_group_is_in_use(
    fake_host: FakeHost, connection: fake_libvirt.virConnect
) -> None:
    node(connection, AUDIO).detachFlags("vfio", 0)
    fake_host.virsh_attach("vm-on", GPU)
    assert code_of(node(connection, AUDIO).reAttach)[0] == 38
    assert fake_host.driver(AUDIO) is None


def test_hazard_5_a_silent_guest_keeps_the_device(
    fake_host: FakeHost, connection: fake_libvirt.virConnect
) -> None:
    fake_host.virsh_attach("vm-on", L4)
    fake_host.guest_ignores_unplug("vm-on")
    fake_host.virsh_detach("vm-on", L4, config=False)
    assert "hostdev" in connection.lookupByName("vm-on").XMLDesc(0)
    fake_host.virsh_destroy("vm-on")
    assert fake_host.driver(L4) == "nvidia"


def test_hazard_6_only_what_libvirt_detached_goes_back(
    fake_host: FakeHost, connection: fake_libvirt.virConnect
) -> None:
    node(connection, L4).detachFlags("vfio", 0)
    fake_host.virsh_attach("vm-on", L4)
    fake_host.virsh_attach("vm-on", NIC)
    fake_host.virsh_destroy("vm-on")
    assert (fake_host.driver(L4), fake_host.driver(NIC)) == ("vfio-pci", "mlx5_core")


VERSIONS = {"9.0": 9_000_000, "11.3": 11_003_000}


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest, fake_host: FakeHost) -> str:
    """A libvirt on a host whose GPU is on a driver that is its own VFIO provider."""
    fake_host.libvirt = VERSIONS[request.param]
    fake_host.provides_vfio(L4)
    return str(request.param)


def test_an_unmanaged_device_on_a_provider(fake_host: FakeHost, version: str) -> None:
    guest = fake_host.add_domain("vm", hostdevs=[L4], managed=False)
    if version == "9.0":
        assert code_of(lambda: fake_host.virsh_start("vm"))[0] == 55
    else:
        fake_host.virsh_start("vm")
    assert guest.active == (version == "11.3")
    assert fake_host.driver(L4) == "nvidia"


def test_a_managed_device_on_a_provider_loses_it(fake_host: FakeHost, version: str) -> None:
    fake_host.add_domain("vm", hostdevs=[L4], running=True)
    assert fake_host.driver(L4) == "vfio-pci"
    fake_host.virsh_destroy("vm")
    assert fake_host.driver(L4) == {"9.0": None, "11.3": "vfio-pci"}[version]


def test_hazard_9_a_stale_entry_is_listed_and_cannot_be_read(
    fake_host: FakeHost, connection: fake_libvirt.virConnect
) -> None:
    fake_host.vanish(L4, still_listed=True)
    assert code_of(node(connection, L4).XMLDesc) == (38, 22)


def test_hazard_11_a_dead_connection_can_look_alive(
    fake_host: FakeHost, connection: fake_libvirt.virConnect
) -> None:
    fake_host.drop_connections(unnoticed=True)
    assert code_of(connection.getCapabilities) == (38, 7)
    assert code_of(connection.getCapabilities) == (1, 7)
    assert connection.isAlive() == 1


def test_hazard_13_no_driver_but_vfio_is_asked_for(
    fake_host: FakeHost, connection: fake_libvirt.virConnect
) -> None:
    """So whatever binds on the fake binds with ``vfio``; libvirt would ask modprobe for it."""
    assert code_of(lambda: node(connection, L4).detachFlags("pci-stub; reboot", 0))[0] == 8
    assert fake_host.driver(L4) == "nvidia"


def test_a_device_in_use_is_not_moved(
    fake_host: FakeHost, connection: fake_libvirt.virConnect
) -> None:
    fake_host.virsh_attach("vm-on", L4)
    assert code_of(node(connection, L4).reAttach)[0] == 55
    assert code_of(lambda: node(connection, L4).detachFlags("vfio", 0))[0] == 55
    assert code_of(lambda: fake_host.virsh_attach("vm-on", L4))[0] == 55
    assert fake_host.driver(L4) == "vfio-pci"


@pytest.mark.usefixtures("fake_host")
def test_a_host_without_an_iommu() -> None:
    host = FakeHost(iommu=False)
    host.add_pci(L4, driver="nvidia", group=82)
    host.add_domain("vm", hostdevs=[L4])
    fake_libvirt.serve(host)
    connection = fake_libvirt.open(host.uri)
    assert "iommuGroup" not in node(connection, L4).XMLDesc(0)
    assert code_of(lambda: node(connection, L4).detachFlags("vfio", 0))[0] == 74
    assert code_of(lambda: host.virsh_start("vm"))[0] == 67
    fake_libvirt.forget(host)


def test_what_a_running_domain_does_not_have_cannot_be_detached(fake_host: FakeHost) -> None:
    assert code_of(lambda: fake_host.virsh_detach("vm-on", L4))[0] == 99


def test_hot_plug_ends_with_the_root_ports_and_definitions_grow_new_ones(
    fake_host: FakeHost,
) -> None:
    fake_host.add_domain("small", root_ports=0, running=True)
    assert code_of(lambda: fake_host.virsh_attach("small", L4, config=False)) == (1, 20)
    fake_host.virsh_attach("small", L4, live=False)
    assert fake_host.driver(L4) == "nvidia"


def test_functions_of_one_guest_slot_are_for_the_next_start_only(
    fake_host: FakeHost, connection: fake_libvirt.virConnect
) -> None:
    hostdev = (
        "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x0000' "
        "bus='0x41' slot='0x00' function='0x{0}'/></source><address type='pci' domain='0x0000' "
        "bus='0x02' slot='0x00' function='0x{0}'/></hostdev>"
    )
    domain = connection.lookupByName("vm-off")
    domain.attachDeviceFlags(hostdev.format(0), 2)
    domain.attachDeviceFlags(hostdev.format(1), 2)
    assert code_of(lambda: domain.attachDeviceFlags(hostdev.format(0), 2))[0] == 55
    domain.create()
    assert (fake_host.driver(GPU), fake_host.driver(AUDIO)) == ("vfio-pci", "vfio-pci")
    assert code_of(lambda: domain.detachDeviceFlags(hostdev.format(0), 1)) == (9, 10)
    running = connection.lookupByName("vm-on")
    assert code_of(lambda: running.attachDeviceFlags(hostdev.format(1), 1)) == (1, 20)


def test_a_hanging_driver_holds_up_other_devices_but_no_look_ups(
    fake_host: FakeHost, connection: fake_libvirt.virConnect
) -> None:
    with fake_host.hang("detachFlags") as hang:
        first = threading.Thread(target=lambda: node(connection, L4).detachFlags("vfio", 0))
        first.start()
        assert hang.entered.wait(10)
        second = threading.Thread(target=lambda: node(connection, NIC).reAttach())
        second.start()
        assert "nvidia" in node(connection, L4).XMLDesc(0)
        assert second.is_alive()
    first.join(10)
    second.join(10)
    assert fake_host.driver(L4) == "vfio-pci"
    assert fake_host.pci(NIC).probes == 1
