"""Unplug is announced, and where it is not, nothing is said."""

from __future__ import annotations

from hypeman_libvirt.devices.domain import Domain
from hypeman_libvirt.host.libvirt_host import LibvirtHost
from tests.fake_host import FakeHost

A_WHILE = 10.0
L4 = "0000:a2:00.0"


def domain(host: LibvirtHost, name: str) -> Domain:
    found = host.find_domain(name)
    assert found is not None
    return found


def test_a_device_that_the_guest_lets_go_is_announced(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.virsh_attach("vm-on", L4)
    with libvirt_host.watch_removal(domain(libvirt_host, "vm-on")) as watch:
        fake_host.virsh_detach("vm-on", L4)
        assert watch.wait(A_WHILE) == "removed"
        assert watch.wait(0.0) is None


def test_a_guest_that_refuses_is_announced(fake_host: FakeHost, libvirt_host: LibvirtHost) -> None:
    vm = domain(libvirt_host, "vm-on")
    with libvirt_host.watch_removal(vm) as watch:
        fake_host.notify("device_removal_failed", (vm.uuid, "hostdev0"))
        assert watch.wait(A_WHILE) == "failed"


def test_other_domains_are_not_heard(fake_host: FakeHost, libvirt_host: LibvirtHost) -> None:
    fake_host.add_domain("other", running=True, hostdevs=[L4])
    with libvirt_host.watch_removal(domain(libvirt_host, "vm-on")) as watch:
        fake_host.virsh_detach("other", L4)
        vm = fake_host.guest("vm-on")
        fake_host.notify("device_removal_failed", (vm.uuid, "hostdev0"))
        assert watch.wait(A_WHILE) == "failed"


def test_after_the_block_nothing_is_registered(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    with libvirt_host.watch_removal(domain(libvirt_host, "vm-on")):
        registered = fake_host.calls["domainEventRegisterAny"]
    assert registered == 2
    assert fake_host.calls["domainEventDeregisterAny"] == 2


def test_a_driver_without_events_announces_nothing(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    fake_host.virsh_attach("vm-on", L4)
    vm = domain(libvirt_host, "vm-on")
    fake_host.refuse("domainEventRegisterAny", 3)
    with libvirt_host.watch_removal(vm) as watch:
        fake_host.virsh_detach("vm-on", L4)
        assert watch.wait(0.0) is None


def test_a_connection_that_is_lost_meanwhile_announces_nothing(
    fake_host: FakeHost, libvirt_host: LibvirtHost
) -> None:
    with libvirt_host.watch_removal(domain(libvirt_host, "vm-on")) as watch:
        fake_host.drop_connections()
        assert watch.wait(0.0) is None
