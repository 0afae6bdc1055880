from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.devices.model import Registration
from hypeman_libvirt.devices.node_device import NodeDevice


def node(text: str = "0000:82:00.0", **facts: object) -> NodeDevice:
    address = PciAddress.parse(text)
    return NodeDevice(address.node_device_name, address, "10de", "2330", **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize("class_code", [0x030000, 0x030200, 0x038000])
def test_vga_3d_and_other_displays_are_gpus(class_code: int) -> None:
    assert rules.device_type(node(class_code=class_code)) == "gpu"


@pytest.mark.parametrize("class_code", [None, 0x030100, 0x040300, 0x020000, 0x120000])
def test_everything_else_is_pci(class_code: int | None) -> None:
    assert rules.device_type(node(class_code=class_code)) == "pci"


@pytest.mark.parametrize(
    "driver", ["vfio-pci", "mlx5_vfio_pci", "nvgrace_gpu_vfio_pci", "vfio_pci", "hisi-acc-vfio-pci"]
)
def test_vendor_variants_are_vfio_too(driver: str) -> None:
    assert rules.on_vfio(driver)


@pytest.mark.parametrize("driver", [None, "nvidia", "vfio", "pci-stub", "vfio-pci-core-ish"])
def test_other_drivers_are_not_vfio(driver: str | None) -> None:
    assert not rules.on_vfio(driver)


@pytest.mark.parametrize(
    ("driver", "in_sysfs", "provider", "ready"),
    [
        ("nvidia", True, True, True),
        ("nvidia", False, False, False),
        ("mlx5_vfio_pci", False, True, True),
        ("vfio-pci", False, False, True),
        (None, False, False, False),
    ],
)
def test_a_provider_is_known_from_sysfs_or_by_its_name(
    driver: str | None, in_sysfs: bool, provider: bool, ready: bool
) -> None:
    device = node(driver=driver, is_vfio_provider=in_sysfs)
    assert rules.is_vfio_provider(device) == provider
    assert rules.is_on_vfio(device) == ready
    assert rules.is_obstacle(device) == (driver is not None and not ready)


@pytest.mark.parametrize(
    ("version", "keeps"),
    [("9.0.0", False), ("9.6.9", False), ("9.7.0", True), ("10.0.0", True), ("11.3.0", True)],
)
def test_libvirt_leaves_devices_on_providers_since_9_7(version: str, keeps: bool) -> None:
    assert rules.keeps_providers(version) == keeps


def test_bridges_and_class_06_are_no_endpoints() -> None:
    assert not rules.is_endpoint(node(is_bridge=True))
    assert not rules.is_endpoint(node(class_code=0x060100))
    assert rules.is_endpoint(node(class_code=None))


def test_an_nvswitch_is_an_endpoint_of_a_bridge_s_class() -> None:
    nvswitch = node(class_code=0x068000)
    assert rules.is_endpoint(nvswitch)
    assert rules.describe(nvswitch) == "0000:82:00.0 (NVSwitch, driver none)"
    assert not rules.is_endpoint(replace(nvswitch, is_bridge=True))
    other = replace(nvswitch, vendor_id="8086")
    assert not rules.is_endpoint(other)
    assert rules.kind(other) == "bridge"


def test_a_bridge_and_a_driverless_sibling_are_no_obstacle() -> None:
    group = [
        node("0000:04:00.0", class_code=0x060400, is_bridge=True, driver="pcieport"),
        node("0000:05:01.0", class_code=0x020000, driver="vfio-pci"),
        node("0000:05:02.0", class_code=0x020000, driver=None),
        node("0000:05:03.0", class_code=0x020000, driver="pci-stub"),
    ]
    assert rules.obstacles(group) == []


def test_an_isa_bridge_with_a_driver_of_its_own_is_an_obstacle() -> None:
    isa = node("0000:00:1f.0", class_code=0x060100, driver="lpc_ich")
    assert rules.obstacles([isa]) == [isa]


def test_a_sibling_with_a_host_driver_is_an_obstacle_unless_it_is_taken() -> None:
    audio = node("0000:82:00.1", class_code=0x040300, driver="snd_hda_intel")
    assert rules.obstacles([audio]) == [audio]
    assert rules.obstacles([audio], {audio.address}) == []
    assert rules.describe(audio) == "0000:82:00.1 (audio, driver snd_hda_intel)"


@pytest.mark.parametrize("name", ["l4-gpu", "a.b_c-d", "0a", "A" * 128, "pci-0000-a2-00-0", "pcie"])
def test_names_that_fit(name: str) -> None:
    rules.check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "a", "-ab", ".ab", "a/b", "../x", "a b", "ab\n", "gpü", "A" * 129),
        *("available", "events", "0000:a2:00.0", "a2:00.0"),
        *("pci_0000_41_00_0", "PCI_0000_41_00_0", "pci_", "mdev_4b20d080_0000_41_00_0"),
    ],
)
def test_names_that_do_not_fit(name: str) -> None:
    with pytest.raises(DeviceError) as refusal:
        rules.check_name(name)
    assert refusal.value.code == "invalid_name"
    assert refusal.value.hint


@pytest.mark.parametrize(
    "tags", [{}, {"team": "ml"}, {"a" * 128: "b" * 256}, {"k": ""}, {"a b": "c:/=+@-._ d"}]
)
def test_tags_that_fit(tags: dict[str, str]) -> None:
    rules.check_tags(tags)


@pytest.mark.parametrize(
    "tags",
    [
        {"": "x"},
        {"a" * 129: "x"},
        {"k": "b" * 257},
        {"ü": "x"},
        {"k": "x\n"},
        {f"k{number}": "x" for number in range(51)},
    ],
)
def test_tags_that_do_not_fit(tags: dict[str, str]) -> None:
    with pytest.raises(DeviceError) as refusal:
        rules.check_tags(tags)
    assert refusal.value.code == "invalid_tags"


def registered(**facts: object) -> Registration:
    hardware = {"vendor_id": "10de", "device_id": "2330", "class_code": 0x030200, "serial": "A1"}
    return Registration(
        id="tz4a98xxat96iws9zmbrgj3a",
        host="a host",
        pci_address=PciAddress.parse("0000:82:00.0"),
        name="h100",
        created_at=datetime(2025, 1, 15, tzinfo=UTC),
        created_by=None,
        iommu_group=25,
        host_driver="nvidia",
        **(hardware | facts),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ({}, {"serial": None}),
        ({"serial": None}, {"serial": "A1"}),
        ({"class_code": None}, {}),
        ({}, {"class_code": None}),
    ],
)
def test_what_cannot_be_read_is_unknown_and_not_changed(
    then: dict[str, object], now: dict[str, object]
) -> None:
    hardware = {"class_code": 0x030200, "serial": "A1"} | now
    assert rules.differences(registered(**then), node(**hardware)) == []  # type: ignore[arg-type]


def test_each_difference_is_named() -> None:
    other = node(class_code=0x030000, serial="B2")
    assert rules.differences(registered(device_id="27b8"), other) == [
        "vendor:device 10de:2330 instead of 10de:27b8",
        "class 0x030000 instead of 0x030200",
        "serial B2 instead of A1",
    ]
