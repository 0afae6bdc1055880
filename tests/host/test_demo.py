"""The embedded default, which is libvirt's own test driver."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import LibvirtFailedError
from hypeman_libvirt.devices.rules import is_endpoint
from hypeman_libvirt.host.libvirt_host import open_host
from hypeman_libvirt.host.test_driver import demo_uri, is_test_driver

pytestmark = pytest.mark.testdriver

L4 = PciAddress.parse("0000:a2:00.0")
HELD_GPU = PciAddress.parse("0000:c1:00.0")


def test_the_embedded_host_is_what_the_readme_says() -> None:
    host = open_host(demo_uri())
    devices = {each.address: each for each in host.list_node_devices()}
    gpu = devices[L4]
    assert (gpu.vendor_id, gpu.device_id, gpu.iommu_group) == ("10de", "27b8", 82)
    assert (gpu.driver, gpu.group_addresses) == ("nvidia", (L4,))
    assert devices[HELD_GPU].driver == "vfio-pci"
    assert [each.domain.name for each in host.list_assignments()[HELD_GPU]] == ["inference"]
    assert any(not is_endpoint(each) for each in devices.values())
    assert any(each.driver is None and each.iommu_group is not None for each in devices.values())
    assert any(each.address.domain > 0xFFFF for each in devices.values())
    assert any(each.vgpu_profiles for each in devices.values())
    assert {each.state for each in host.list_domains()} == {"running", "shut off"}
    host.close()


def test_the_log_says_that_it_is_a_demo(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        open_host(demo_uri()).close()
    assert "in memory only" in caplog.text


def test_bindings_last_as_long_as_the_host_object() -> None:
    host = open_host(demo_uri())
    with host.changes() as changes:
        changes.bind(L4)
    bound = host.node_device(L4)
    host.close()
    again = open_host(demo_uri())
    fresh = again.node_device(L4)
    again.close()
    assert bound is not None
    assert fresh is not None
    assert (bound.driver, fresh.driver) == ("vfio-pci", "nvidia")


def test_the_host_says_what_lies_on_its_devices() -> None:
    host = open_host(demo_uri())
    uses = host.read_usage([], host.list_node_devices()).uses
    host.close()
    assert {str(each.address) for each in uses} == {"0000:01:00.0", "0000:3b:00.0"}


def test_libvirts_own_default_host_has_no_file() -> None:
    host = open_host("test:///default")
    assert host.list_node_devices() == []
    assert host.has_vfio() is None
    assert host.key() == "test:///default"
    host.close()


@pytest.mark.parametrize("content", [None, "<node>", "\x00\xff"])
def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "a host.xml"
    if content is not None:
        path.write_text(content, encoding="latin-1")
    with pytest.raises(LibvirtFailedError):
        open_host(f"test://{str(path).replace(' ', '%20')}")


def test_a_path_with_a_space(tmp_path: Path) -> None:
    path = tmp_path / "a host.xml"
    path.write_text(Path(demo_uri().removeprefix("test://")).read_text())
    host = open_host(f"test://{str(path).replace(' ', '%20')}")
    device = host.node_device(L4)
    host.close()
    assert device is not None
    assert device.driver == "nvidia"


def test_only_the_test_driver_is_a_demo() -> None:
    assert is_test_driver("test:///default")
    assert not is_test_driver("qemu:///system")
    assert not is_test_driver("test+ssh://host/default")
