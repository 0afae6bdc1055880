"""Devices whose driver gives them to guests itself are never taken from that driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hypeman_libvirt.devices.errors import NotSupportedError
from hypeman_libvirt.host.usage.local_host import LocalHost
from hypeman_libvirt.rest.schemas import DeviceOut
from tests.fake_host import FakeHost
from tests.fake_xml import hostdevs
from tests.host.fake_sysfs import FakeSysfs
from tests.world import OPERATOR, World, world_on

VGPU = "0000:a2:00.4"
DIRECTORY = f"/sys/devices/pci0000:a2/{VGPU}"
OLD, NEW = 9_000_000, 11_003_000


@pytest.fixture
def world(fake_host: FakeHost, tmp_path: Path) -> Iterator[World]:
    """A service on a host whose GPU has a vGPU on NVIDIA's driver."""
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415

    sysfs = FakeSysfs(tmp_path / "host")
    fake_host.add_pci(VGPU, vendor="10de", product="26b9", driver="nvidia", group=90)
    fake_host.provides_vfio(VGPU)
    sysfs.add_pci(VGPU, vendor_id="10de", device_id="26b9", below="/sys/devices/pci0000:a2")
    sysfs.write(f"{DIRECTORY}/vfio-dev/vfio0/dev", "243:0\n")
    host = open_host(fake_host.uri, local_host=LocalHost(sysfs.root, sysfs.read_interfaces))
    with world_on(host, tmp_path) as world:
        world.service.register(VGPU, "vgpu", {}, OPERATOR)
        yield world
    host.close()


def managed(fake_host: FakeHost, name: str) -> set[str | None]:
    guest = fake_host.guest(name)
    found = [*hostdevs(guest.live), *hostdevs(guest.config)]
    return {each.get("managed") for each in found}


@pytest.mark.parametrize("name", ["vm-on", "vm-off"])
def test_a_domain_gets_it_unmanaged(world: World, fake_host: FakeHost, name: str) -> None:
    fake_host.libvirt = NEW
    device = world.service.attach("vgpu", name, "group", OPERATOR)
    assert device.assignment is not None
    assert managed(fake_host, name) == {"no"}
    if name == "vm-off":
        fake_host.virsh_start(name)
    assert fake_host.driver(VGPU) == "nvidia"
    fake_host.virsh_destroy(name)
    assert fake_host.driver(VGPU) == "nvidia"
    world.service.detach("vgpu", OPERATOR)
    assert fake_host.driver(VGPU) == "nvidia"


@pytest.mark.parametrize("name", ["vm-on", "vm-off"])
def test_a_libvirt_that_would_take_it_from_its_driver_is_refused(
    world: World, fake_host: FakeHost, name: str
) -> None:
    fake_host.libvirt = OLD
    preflight = world.service.preflight.of_device("vgpu", name)
    stated = {each.id: each.message for each in preflight.checks if each.severity == "error"}
    assert set(stated) == {"vfio"}
    with pytest.raises(NotSupportedError) as refusal:
        world.service.attach("vgpu", name, "device", OPERATOR, force=True)
    for said in (stated["vfio"], str(refusal.value)):
        assert f"{VGPU} is on nvidia" in said
        assert "libvirt 9.0.0" in said
    assert "needs libvirt 9.7.0 or newer" in str(refusal.value.hint)
    assert managed(fake_host, name) == set()
    assert fake_host.calls["setMetadata"] == 0
    assert fake_host.driver(VGPU) == "nvidia"


@pytest.mark.parametrize("libvirt", [OLD, NEW])
def test_it_is_ready_as_it_is_and_neither_bound_nor_unbound(
    world: World, fake_host: FakeHost, libvirt: int
) -> None:
    fake_host.libvirt = libvirt
    assert DeviceOut.of(world.service.inventory.get("vgpu")).bound_to_vfio
    assert world.service.preflight.of_device("vgpu", purpose="bind").ready
    for force in (False, True):
        assert DeviceOut.of(
            world.service.bind("vgpu", "group", OPERATOR, force=force)
        ).bound_to_vfio
    assert DeviceOut.of(world.service.unbind("vgpu", "group", OPERATOR)).bound_to_vfio
    world.service.unregister("vgpu", OPERATOR, unbind="group")
    assert fake_host.pci(VGPU).unbinds == 0
    assert not {"detachFlags", "reAttach"} & set(fake_host.calls)
    assert [change.action for change in world.changes] == ["register", "unregister"]


def test_it_is_no_obstacle_to_its_group(world: World, fake_host: FakeHost) -> None:
    fake_host.libvirt = NEW
    fake_host.add_pci("0000:a2:00.5", driver="nvidia", group=90)
    sibling = world.service.register("0000:a2:00.5", "sibling", {}, OPERATOR)
    world.service.bind("sibling", "device", OPERATOR)
    assert world.service.inventory.get_group(90).viable
    world.service.attach("sibling", "vm-on", "device", OPERATOR)
    assert fake_host.driver(VGPU) == "nvidia"
    assert sibling.node is not None


def test_the_xml_for_virsh_is_unmanaged(world: World) -> None:
    assert 'managed="no"' in world.service.inventory.hostdev_xml("vgpu", "device")


@pytest.fixture
def variant(world: World, fake_host: FakeHost) -> str:
    """Where sysfs says nothing, as on a remote host, there is the name of the driver."""
    address = "0000:3b:00.2"
    fake_host.add_pci(address, driver="mlx5_vfio_pci", host_driver="mlx5_core", group=31)
    world.service.register(address, "slice", {}, OPERATOR)
    return address


def test_a_variant_of_vfio_pci_is_known_by_its_name(
    world: World, fake_host: FakeHost, variant: str
) -> None:
    fake_host.libvirt = NEW
    assert 'managed="no"' in world.service.inventory.hostdev_xml("slice", "device")
    world.service.attach("slice", "vm-on", "device", OPERATOR)
    assert managed(fake_host, "vm-on") == {"no"}
    assert fake_host.driver(variant) == "mlx5_vfio_pci"


@pytest.fixture
def remote(world: World, fake_host: FakeHost) -> str:
    """A virtual function on NVIDIA's driver, of which sysfs says nothing."""
    address = "0000:b1:00.4"
    fake_host.add_pci("0000:b1:00.0", product="26b9", driver="nvidia", group=91, max_vfs=16)
    fake_host.add_pci(
        address, product="26b9", driver="nvidia", group=92, physical_function="0000:b1:00.0"
    )
    fake_host.provides_vfio(address)
    world.service.register(address, "remote", {}, OPERATOR)
    return address


def test_on_a_remote_host_nvidias_vgpus_are_known_by_what_libvirt_says(
    world: World, fake_host: FakeHost, remote: str
) -> None:
    fake_host.libvirt = OLD
    with pytest.raises(NotSupportedError, match=f"{remote} is on nvidia"):
        world.service.attach("remote", "vm-on", "device", OPERATOR)
    fake_host.libvirt = NEW
    assert 'managed="no"' in world.service.inventory.hostdev_xml("remote", "device")
    world.service.attach("remote", "vm-on", "device", OPERATOR)
    assert managed(fake_host, "vm-on") == {"no"}
    assert (fake_host.driver(remote), fake_host.pci(remote).unbinds) == ("nvidia", 0)


def test_a_virtual_function_with_mediated_devices_is_no_vgpu_itself(
    world: World, fake_host: FakeHost
) -> None:
    address = "0000:b1:00.5"
    fake_host.add_pci("0000:b1:00.0", driver="nvidia", group=91, max_vfs=16)
    fake_host.add_pci(
        address,
        driver="nvidia",
        group=93,
        physical_function="0000:b1:00.0",
        vgpu=[("nvidia-474", "NVIDIA A10-4Q", 1)],
    )
    world.service.register(address, "parent", {}, OPERATOR)
    assert 'managed="yes"' in world.service.inventory.hostdev_xml("parent", "device")


@pytest.mark.parametrize("libvirt", [OLD, 9_006_000])
def test_a_variant_is_not_given_by_a_libvirt_that_would_take_it(
    world: World, fake_host: FakeHost, variant: str, libvirt: int
) -> None:
    fake_host.libvirt = libvirt
    with pytest.raises(NotSupportedError):
        world.service.attach("slice", "vm-on", "device", OPERATOR)
    assert managed(fake_host, "vm-on") == set()
    assert fake_host.driver(variant) == "mlx5_vfio_pci"


def test_a_variant_that_libvirt_has_bound_goes_back_to_its_host_driver(
    world: World, fake_host: FakeHost, variant: str
) -> None:
    world.service.unbind("slice", "device", OPERATOR)
    assert fake_host.driver(variant) == "mlx5_core"
