"""What guests of a remote host live on, as far as libvirt's node devices say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import HostUse, NodeDevice, VgpuProfile
from hypeman_libvirt.host.usage.guest_usage import GuestUsage, UntracedDevice
from hypeman_libvirt.host.usage.host_usage import HostUsage
from hypeman_libvirt.host.xml.guest_devices import (
    GuestDevice,
    GuestDeviceKind,
    InterfaceSource,
    MdevSource,
    PathSource,
    ScsiSource,
    Source,
    UsbSource,
    VhostScsiSource,
    VolumeSource,
)
from hypeman_libvirt.host.xml.node_tree import TreeNode, parse_tree_node

CARD = "/sys/devices/pci0000:00/0000:00:0a.0/0000:03:00.0"
CARD_ADDRESS = PciAddress(0, 3, 0, 0)
ON_CARD = frozenset({CARD_ADDRESS})
UUID = "c2177883-f1bb-47f0-914d-32a22e3a8804"
NODE = NodeDevice("pci_0000_03_00_0", CARD_ADDRESS, "1000", "0097", path=CARD, driver="any")


def trace(source: Source, *nodes: TreeNode) -> frozenset[PciAddress] | None:
    usage = GuestUsage(lambda: nodes, lambda _, __: "/dev/sda", None)
    found = usage.new_trace()(GuestDevice("block_disk", "disk vda", source))
    return None if found is None else frozenset(found)


def node(inside: str, capability: str, *, path: str = CARD, name: str = "it") -> TreeNode:
    return parse_tree_node(
        f"<device><name>{name}</name><path>{path}/{inside}</path>{capability}</device>"
    )


DISK = node(
    "nvme/nvme0/nvme0n1",
    "<devnode type='dev'>/dev/nvme0n1</devnode>"
    "<devnode type='link'>/dev/disk/by-id/nvme-QEMU_1</devnode>"
    "<capability type='storage'><block>/dev/nvme0n1</block></capability>",
)
SATA = node("ata1/block/sda", "<capability type='storage'><block>/dev/sda</block></capability>")


@pytest.mark.parametrize(
    "path",
    ["/dev/nvme0n1", "/dev/nvme0n1p2", "/dev/disk/by-id/nvme-QEMU_1", "/dev/sda", "/dev/sda12"],
)
def test_disks_links_and_partitions_are_traced(path: str) -> None:
    assert trace(PathSource(path), DISK, SATA, TreeNode("computer")) == ON_CARD


@pytest.mark.parametrize("path", ["/dev/nvme0n11", "/dev/sdaa", "/dev/dm-0", "/srv/a.img"])
def test_what_the_kernel_makes_of_disks_is_unknown(path: str) -> None:
    assert trace(PathSource(path), DISK, SATA) is None


def test_a_disk_that_libvirt_hangs_on_no_card_is_unknown() -> None:
    shared = node("nvme0n1", "<capability type='storage'><block>/dev/nvme0n1</block></capability>")
    elsewhere = replace(shared, path="/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1")
    assert trace(PathSource("/dev/nvme0n1"), elsewhere) is None


@pytest.mark.parametrize(
    ("source", "capability"),
    [
        (MdevSource(UUID), f"<capability type='mdev'><uuid>{UUID}</uuid></capability>"),
        (ScsiSource(2), "<capability type='scsi_host'><host>2</host></capability>"),
        (
            UsbSource(1, 4, None, None),
            "<capability type='usb_device'><bus>1</bus><device>4</device></capability>",
        ),
        (
            UsbSource(None, None, "046d", "c31c"),
            (
                "<capability type='usb_device'><bus>1</bus><device>4</device>"
                "<product id='0xC31C'/><vendor id='0x046d'/></capability>"
            ),
        ),
        (
            InterfaceSource("eth0"),
            "<capability type='net'><interface>eth0</interface></capability>",
        ),
        (
            PathSource("/dev/vhost-vdpa-0"),
            "<capability type='vdpa'><chardev>/dev/vhost-vdpa-0</chardev></capability>",
        ),
        (
            PathSource("/dev/dri/renderD128"),
            (
                "<devnode type='dev'>/dev/dri/renderD128</devnode>"
                "<capability type='drm'><type>render</type></capability>"
            ),
        ),
        (
            VolumeSource("pool", "it"),
            "<capability type='storage'><block>/dev/sda</block></capability>",
        ),
    ],
)
def test_libvirt_s_own_list_says_which_card_it_is_on(source: Source, capability: str) -> None:
    assert trace(source, node("x", capability), TreeNode("computer")) == ON_CARD
    assert trace(source, TreeNode("computer")) is None


def test_a_mediated_device_s_uuid_is_in_its_name_before_libvirt_7_3() -> None:
    name = f"mdev_{UUID.replace('-', '_')}_0000_03_00_0"
    old = node(UUID, "<capability type='mdev'><type id='nvidia-222'/></capability>", name=name)
    assert trace(MdevSource(UUID), old) == ON_CARD


def test_a_vhost_target_of_a_remote_host_is_unknown() -> None:
    assert trace(VhostScsiSource("naa.5"), DISK) is None


def test_the_tree_is_listed_once_and_for_none_that_needs_it_not() -> None:
    asked = []

    def list_tree() -> list[TreeNode]:
        asked.append("tree")
        return [SATA]

    trace = GuestUsage(list_tree, lambda _, __: None, None).new_trace()
    trace(GuestDevice("block_disk", "disk vda", PathSource("/srv/a.img")))
    assert asked == []
    for path in ("/dev/sda", "/dev/sdb"):
        trace(GuestDevice("block_disk", "disk vda", PathSource(path)))
    assert asked == ["tree"]


def ask(device: NodeDevice, kind: GuestDeviceKind) -> list[HostUse]:
    """Ask what a remote device may be used for while something of a guest's is not traced."""
    untraced = UntracedDevice("vm", GuestDevice(kind, "disk vda on it", PathSource("/dev/x")))
    return list(HostUsage(list, None).list_uses([device], [untraced]))


@pytest.mark.parametrize(
    ("kind", "class_code"),
    [
        ("scsi", 0x010700),
        ("scsi_host", 0x010700),
        ("usb", 0x0C0330),
        ("macvtap", 0x020000),
        ("vdpa", 0x020000),
        ("vdpa", 0x010000),
        ("char_device", 0x030000),
    ],
)
def test_what_is_not_traced_may_be_on_any_device_of_its_kind(
    kind: GuestDeviceKind, class_code: int
) -> None:
    what = "disk vda on it of domain vm cannot be traced, and may lie on it"
    assert ask(replace(NODE, class_code=class_code), kind) == [
        HostUse(CARD_ADDRESS, what, known=False)
    ]
    assert ask(replace(NODE, class_code=0x0B4000), kind) == []


def test_a_mediated_device_that_is_not_traced_may_be_of_any_that_makes_some() -> None:
    assert ask(NODE, "mdev") == []
    profiles = (VgpuProfile("nvidia-222", "GRID T4-1B", 1),)
    assert [use.known for use in ask(replace(NODE, vgpu_profiles=profiles), "mdev")] == [False]
