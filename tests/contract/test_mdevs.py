"""Mediated devices on the fake and on the test driver's host: the same of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from hypeman_libvirt.devices.address import MdevUuid, PciAddress
from hypeman_libvirt.devices.errors import LibvirtFailedError

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost

T4: Final = PciAddress.parse("0000:65:00.0")
FIRST: Final = MdevUuid("c2177883-f1bb-47f0-914d-32a22e3a8804")
SECOND: Final = MdevUuid("c2177883-f1bb-47f0-914d-32a22e3a8805")
SMALL, LARGE = "nvidia-222", "nvidia-232"


def room(host: LibvirtHost) -> dict[str, int]:
    node = host.node_device(T4)
    assert node is not None
    return {each.type_id: each.available for each in node.vgpu_profiles}


def test_one_is_made_found_and_removed(host: LibvirtHost) -> None:
    assert room(host) == {SMALL: 16, LARGE: 4}
    with host.changes() as changes:
        changes.make_mdev(FIRST, T4, LARGE, autostart=True)
        changes.make_mdev(FIRST, T4, LARGE, autostart=True)  # what is done stays
    (mdev,) = host.read_mdevs()
    assert (mdev.uuid, mdev.type_id) == (FIRST, LARGE)
    assert (mdev.active, mdev.persistent, mdev.autostart) == (True, True, True)
    node = host.node_device(FIRST)
    assert node is not None
    assert (node.address, node.device, node.vendor_id) == (T4, FIRST, "10de")
    assert (node.iommu_group, node.driver) == (mdev.iommu_group, mdev.driver)
    assert node.iommu_group not in {None, 0}
    assert room(host) == {SMALL: 0, LARGE: 3}
    with host.changes() as changes:
        changes.remove_mdev(FIRST)
        changes.remove_mdev(FIRST)
    assert (list(host.read_mdevs()), host.node_device(FIRST)) == ([], None)
    assert room(host) == {SMALL: 16, LARGE: 4}


def test_a_parent_without_room_makes_none(host: LibvirtHost) -> None:
    with host.changes() as changes:
        changes.make_mdev(FIRST, T4, LARGE, autostart=False)
        with pytest.raises(LibvirtFailedError):
            changes.make_mdev(SECOND, T4, SMALL, autostart=False)
    assert SECOND not in {each.uuid for each in host.read_mdevs() if each.active}


def test_a_parent_on_vfio_pci_has_no_types(host: LibvirtHost) -> None:
    with host.changes() as changes:
        changes.bind(T4)
    assert room(host) == {}
