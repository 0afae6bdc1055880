"""What libvirt is told of a device whose driver gives it to guests itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.domain import Domain
from hypeman_libvirt.devices.errors import LibvirtUnavailableError
from hypeman_libvirt.host.cache.node_devices import SysfsDrivers
from hypeman_libvirt.host.usage.local_host import LocalHost
from tests.fake_host import FakeHost
from tests.fake_xml import held, hostdevs
from tests.host.fake_sysfs import FakeSysfs

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost

VGPU, NIC = PciAddress.parse("0000:a2:00.4"), PciAddress.parse("0000:3b:00.0")
DIRECTORY = "/sys/devices/pci0000:a2/0000:a2:00.4"


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path)


@pytest.fixture
def host(fake_host: FakeHost, sysfs: FakeSysfs) -> Iterator[LibvirtHost]:
    """A host with libvirt 11.3 that we run on, and a vGPU that NVIDIA's driver has there."""
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415

    fake_host.libvirt = 11_003_000
    fake_host.add_pci(
        str(VGPU), vendor="10de", product="26b9", driver="nvidia", group=90
    ).is_vfio_provider = True
    sysfs.write(f"{DIRECTORY}/vendor", "0x10de\n")
    sysfs.write(f"{DIRECTORY}/device", "0x26b9\n")
    sysfs.write(f"{DIRECTORY}/vfio-dev/vfio0/dev", "243:0\n")
    host = open_host(fake_host.uri, local_host=LocalHost(sysfs.root))
    yield host
    host.close()


def domain(host: LibvirtHost, name: str) -> Domain:
    found = host.find_domain(name)
    assert found is not None
    return found


def managed(fake_host: FakeHost, name: str) -> list[tuple[str | None, str | None]]:
    guest = fake_host.guest(name)
    return [
        (each.get("managed"), where)
        for where, definition in (("live", guest.live), ("defined", guest.config))
        for each in hostdevs(definition)
    ]


def test_the_kernel_says_which_driver_is_a_provider(host: LibvirtHost, sysfs: FakeSysfs) -> None:
    node = host.node_device(VGPU)
    assert node is not None
    assert node.is_vfio_provider
    (sysfs.root / DIRECTORY.lstrip("/") / "vfio-dev").rename(sysfs.root / "gone")
    node = host.node_device(VGPU)
    assert node is not None
    assert not node.is_vfio_provider


def test_vfio_pci_itself_is_none(host: LibvirtHost, fake_host: FakeHost, sysfs: FakeSysfs) -> None:
    fake_host.set_driver(str(VGPU), "vfio-pci")
    node = host.node_device(VGPU)
    assert node is not None
    assert not node.is_vfio_provider
    drivers = SysfsDrivers(sysfs.root / "sys/devices/pci0000:a2")
    assert drivers.is_vfio_provider(VGPU, "nvidia")
    assert not drivers.is_vfio_provider(VGPU, "vfio-pci")
    assert not drivers.is_vfio_provider(VGPU, None)
    assert not drivers.is_vfio_provider(NIC, "mlx5_core")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("vm-off", [("no", "defined")]), ("vm-on", [("no", "live"), ("no", "defined")])],
)
def test_it_is_given_unmanaged_and_stays_on_its_driver(
    host: LibvirtHost,
    fake_host: FakeHost,
    name: str,
    expected: list[tuple[str, str]],
) -> None:
    with host.changes() as changes:
        changes.attach(domain(host, name), [VGPU], [VGPU])
    assert managed(fake_host, name) == expected
    assert fake_host.driver(str(VGPU)) == "nvidia"


def test_a_driver_without_attach_gets_it_unmanaged_in_a_new_definition(
    host: LibvirtHost, fake_host: FakeHost
) -> None:
    fake_host.refuse("attachDeviceFlags", 3)
    with host.changes() as changes:
        changes.attach(domain(host, "vm-off"), [VGPU], [VGPU])
    assert managed(fake_host, "vm-off") == [("no", "defined")]


@pytest.mark.parametrize("successes", range(4))
def test_a_lost_reply_leaves_it_on_its_driver(
    host: LibvirtHost, fake_host: FakeHost, successes: int
) -> None:
    vm = domain(host, "vm-on")
    with host.changes() as changes:
        fake_host.lose_reply("attachDeviceFlags", after=successes)
        with pytest.raises(LibvirtUnavailableError):
            changes.attach(vm, [VGPU, NIC], [VGPU])
    assert held(fake_host.guest("vm-on").live) == set()
    assert held(fake_host.guest("vm-on").config) == set()
    assert (fake_host.driver(str(VGPU)), fake_host.driver(str(NIC))) == ("nvidia", "mlx5_core")


def test_the_xml_for_virsh_is_unmanaged_where_it_must_be(host: LibvirtHost) -> None:
    both = host.hostdev_xml([NIC, VGPU], [VGPU]).splitlines()
    told = {("managed='no'" in each or 'managed="no"' in each) for each in both if "a2" in each}
    assert told == {True}
    assert 'managed="yes"' in host.hostdev_xml([NIC])
