from __future__ import annotations

from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import LibvirtFailedError
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.host.xml.node_tree import TreeNode, is_inside, list_below, parse_tree_node

CONTROLLER = NodeDevice(
    "pci_0000_00_1f_2",
    PciAddress(0, 0, 0x1F, 2),
    "8086",
    "2922",
    path="/sys/devices/pci0000:00/0000:00:1f.2",
)


def test_a_disk_says_its_block_device() -> None:
    node = parse_tree_node(
        """<device><name>block_sda_x</name>
        <path>/sys/devices/pci0000:00/0000:00:1f.2/ata1/block/sda</path>
        <parent>scsi_0_0_0_0</parent>
        <capability type='storage'><block>/dev/sda</block><bus>ata</bus></capability></device>"""
    )
    assert node == TreeNode(
        "block_sda_x",
        "scsi_0_0_0_0",
        "/sys/devices/pci0000:00/0000:00:1f.2/ata1/block/sda",
        block="sda",
    )


def test_an_interface_says_the_state_of_its_link() -> None:
    node = parse_tree_node(
        """<device><name>net_eth0_x</name><parent>pci_0000_01_00_0</parent>
        <capability type='net'><interface>eth0</interface><link speed='1000' state='up'/>
        <capability type='80203'/></capability></device>"""
    )
    assert (node.interface, node.link, node.path) == ("eth0", "up", None)


def test_a_pci_function_says_its_class() -> None:
    node = parse_tree_node(
        """<device><name>pci_0000_03_00_0</name>
        <capability type='pci'><class>0x010802</class></capability></device>"""
    )
    assert node.class_code == 0x010802


def test_entities_of_a_document_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    xml = f"""<!DOCTYPE device [<!ENTITY x SYSTEM "{secret.as_uri()}">]>
    <device><name>a&x;</name></device>"""
    assert "secret" not in parse_tree_node(xml).name


def test_a_disk_whose_model_breaks_the_xml_is_found_all_the_same() -> None:
    node = parse_tree_node(
        """<device><name>block_sda_x</name><parent>pci_0000_00_1f_2</parent>
        <capability type='storage'><model>\x01 & \x1b</model><block>/dev/sda</block></capability>
        </device>"""
    )
    assert (node.block, node.parent) == ("sda", "pci_0000_00_1f_2")


def test_what_is_no_xml_is_refused() -> None:
    with pytest.raises(LibvirtFailedError):
        parse_tree_node("libvirt")


def test_disks_are_found_through_the_scsi_nodes_between() -> None:
    tree = [
        TreeNode("computer"),
        TreeNode("pci_0000_00_1f_2", "computer"),
        TreeNode("scsi_host0", "pci_0000_00_1f_2"),
        TreeNode("scsi_target0_0_0", "scsi_host0"),
        TreeNode("block_sda", "scsi_target0_0_0", block="sda"),
        TreeNode("block_sdb", "computer", block="sdb"),
    ]
    below = list_below(tree, CONTROLLER)
    assert [node.block for node in below if node.block] == ["sda"]


def test_a_disk_that_hangs_on_the_computer_is_found_by_its_path() -> None:
    disk = TreeNode("block_sda", "computer", f"{CONTROLLER.path}/ata1/block/sda", block="sda")
    other = TreeNode("block_sdb", "computer", f"{CONTROLLER.path}0/ata1/block/sdb", block="sdb")
    assert list_below([disk, other], CONTROLLER) == [disk]


def test_a_ring_of_parents_ends() -> None:
    assert list_below([TreeNode("a", "b"), TreeNode("b", "a")], CONTROLLER) == []


@pytest.mark.parametrize(
    ("path", "inside"), [("/a/b", True), ("/a/b/c", True), ("/a/bc", False), (None, False)]
)
def test_a_directory_ends_at_a_slash(path: str | None, inside: bool) -> None:
    assert is_inside(path, "/a/b") is inside
