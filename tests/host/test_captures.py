"""What a real libvirt 9.0 said of 31 devices, against the summary made on the host itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.host.xml.domain import DomainXml, parse_metadata
from hypeman_libvirt.host.xml.guest_slots import shares_slot
from hypeman_libvirt.host.xml.node_device import parse_node_device

CAPTURES = Path(__file__).parents[1] / "data" / "captures"
HOSTS = ("default", "nvidia", "noiommu")
GPU, AUDIO = PciAddress(0, 0x82, 0, 0), PciAddress(0, 0x82, 0, 1)
WITH_DOMAINS = ("default", "nvidia")


def read(path: Path) -> NodeDevice:
    device = parse_node_device(path.read_text())
    assert device is not None
    return device


def summary_line(device: NodeDevice, capture: str) -> str:
    """Write the facts as the host's own summary does; the order of group members is libvirt's."""
    if device.iommu_group is None:
        group = "-"
    else:
        members = " ".join(str(each)[5:] for each in device.group_addresses)
        group = f"{device.iommu_group}[{members}]"
    assert device.class_code is not None
    max_vfs = re.search("virt_functions' maxCount='([0-9]+)'", capture)
    kind = "pci-bridge" if device.is_bridge else "-"
    cells = (
        device.node_name,
        device.driver or "-",
        f"0x{device.class_code:06x}",
        f"0x{device.vendor_id}:0x{device.device_id}",
        group,
        f"virt_functions={max_vfs[1]}" if max_vfs else kind,
        "pciexp" if device.link_capability else "-",
        "-" if device.numa_node is None else str(device.numa_node),
    )
    return f"| {' | '.join(cells)} |"


def with_sorted_group(line: str) -> str:
    return re.sub(r"\[(.*?)\]", lambda m: f"[{' '.join(sorted(m[1].split()))}]", line)


@pytest.mark.parametrize("host", HOSTS)
def test_every_fact_of_every_device(host: str) -> None:
    paths = sorted((CAPTURES / host / "boot").iterdir())
    lines = [summary_line(read(path), path.read_text()) for path in paths]
    summary = (CAPTURES / host / "summary.txt").read_text().splitlines()
    assert lines == [with_sorted_group(each) for each in summary if each.startswith("|")]
    assert len(lines) == 31


@pytest.mark.parametrize("host", WITH_DOMAINS)
def test_detached_devices_are_on_vfio(host: str) -> None:
    devices = [read(path) for path in (CAPTURES / host / "detached").iterdir()]
    bound = {str(each.address) for each in devices if each.driver == "vfio-pci"}
    assert bound == {"0000:01:00.0", "0000:06:00.0", "0000:82:00.0", "0000:82:00.1"}


@pytest.mark.parametrize("host", WITH_DOMAINS)
def test_a_stripped_root_port_has_no_driver(host: str) -> None:
    port = read(CAPTURES / host / "rootport_after_detach_no_driver.xml")
    assert (port.driver, port.is_bridge) == (None, True)


def test_the_computer_is_no_pci_device() -> None:
    assert parse_node_device((CAPTURES / "default" / "computer.xml").read_text()) is None


@pytest.mark.parametrize("host", WITH_DOMAINS)
@pytest.mark.parametrize(
    ("name", "live"),
    [
        ("domain_live.xml", True),
        ("domain_inactive.xml", False),
        ("domain_live_inactive_flag.xml", False),
    ],
)
def test_a_domain_holds_three_functions(host: str, name: str, live: bool) -> None:
    domain = DomainXml((CAPTURES / host / name).read_text())
    held = {str(each.device): each for each in domain.held}
    assert set(held) == {"0000:82:00.0", "0000:82:00.1", "0000:01:00.0"}
    assert all(each.managed for each in held.values())
    assert held["0000:82:00.1"].guest_address == PciAddress(0, 6, 1, 0)
    assert domain.is_live == live


def test_a_group_in_a_running_domain_has_two_slots_now_and_one_from_the_next_start() -> None:
    live, defined = (
        DomainXml((CAPTURES / "group-attached" / name).read_text())
        for name in ("domain_live.xml", "domain_inactive.xml")
    )
    assert [held.guest_address for held in live.held] == [
        PciAddress(0, 1, 0, 0),
        PciAddress(0, 2, 0, 0),
    ]
    assert [held.guest_address for held in defined.held] == [
        PciAddress(0, 1, 0, 0),
        PciAddress(0, 1, 0, 1),
    ]
    assert not shares_slot(live, GPU)
    assert shares_slot(defined, GPU)


def test_the_metadata_names_the_sibling_that_attach_has_bound() -> None:
    (entry,) = parse_metadata((CAPTURES / "group-attached" / "metadata.xml").read_text())
    assert (entry.name, entry.device, entry.bound) == ("h100", GPU, (AUDIO,))
    drivers = {read(path).driver for path in (CAPTURES / "group-attached").glob("pci_*.xml")}
    assert drivers == {"vfio-pci"}


def test_virtual_functions_and_their_physical_function_name_each_other() -> None:
    nvme, *functions = (read(path) for path in sorted((CAPTURES / "sriov").iterdir()))
    assert nvme.virtual_functions == tuple(each.address for each in functions)
    assert {each.physical_function for each in functions} == {nvme.address}
    assert len({each.iommu_group for each in (nvme, *functions)}) == 3
