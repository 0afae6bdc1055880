"""What of the host a domain refers to, in the words of libvirt's domain format."""

from __future__ import annotations

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.errors import LibvirtFailedError
from hypeman_libvirt.host.xml.document import parse_xml
from hypeman_libvirt.host.xml.guest_devices import (
    GuestDevice,
    InterfaceSource,
    MdevSource,
    PathSource,
    PciSource,
    ScsiSource,
    UsbSource,
    VhostScsiSource,
    VolumeSource,
    parse_guest_devices,
)

UUID = "c2177883-f1bb-47f0-914d-32a22e3a8804"


def parse(*devices: str) -> tuple[GuestDevice, ...]:
    xml = f"<domain><name>vm</name><devices>{''.join(devices)}</devices></domain>"
    return tuple(parse_guest_devices(parse_xml(xml)))


@pytest.mark.parametrize(
    ("xml", "device"),
    [
        (
            (
                "<disk type='block' device='disk'><source dev='/dev/nvme0n1p2'/>"
                "<target dev='vda' bus='virtio'/></disk>"
            ),
            GuestDevice("block_disk", "disk vda on /dev/nvme0n1p2", PathSource("/dev/nvme0n1p2")),
        ),
        (
            "<disk type='block' device='lun'><source dev='/dev/sdb'/><target dev='sda'/></disk>",
            GuestDevice("block_disk", "disk sda on /dev/sdb", PathSource("/dev/sdb")),
        ),
        (
            "<disk type='file'><source file='/srv/a.img'/><target dev='vda'/></disk>",
            GuestDevice("block_disk", "disk vda on /srv/a.img", PathSource("/srv/a.img")),
        ),
        (
            "<disk type='volume'><source pool='fast' volume='a'/><target dev='vdb'/></disk>",
            GuestDevice(
                "block_disk", "disk vdb on volume a of pool fast", VolumeSource("fast", "a")
            ),
        ),
        (
            (
                "<disk type='nvme'><source type='pci' managed='yes' namespace='1'>"
                "<address domain='0x0000' bus='0x03' slot='0x00' function='0x0'/></source>"
                "<target dev='vdc'/></disk>"
            ),
            GuestDevice("nvme_disk", "disk vdc", PciSource(PciAddress(0, 3, 0, 0))),
        ),
        (
            "<disk type='vhostvdpa'><source dev='/dev/vhost-vdpa-1'/><target dev='vdd'/></disk>",
            GuestDevice("vdpa", "disk vdd on /dev/vhost-vdpa-1", PathSource("/dev/vhost-vdpa-1")),
        ),
        (
            (
                "<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host2'/>"
                "<address bus='0' target='0' unit='0'/></source></hostdev>"
            ),
            GuestDevice("scsi", "SCSI device on scsi_host2", ScsiSource(2)),
        ),
        (
            (
                "<hostdev mode='subsystem' type='scsi_host'>"
                "<source protocol='vhost' wwpn='naa.5123456789abcde0'/></hostdev>"
            ),
            GuestDevice(
                "scsi_host",
                "SCSI target naa.5123456789abcde0",
                VhostScsiSource("naa.5123456789abcde0"),
            ),
        ),
        (
            (
                "<hostdev mode='subsystem' type='usb'><source><vendor id='0x046D'/>"
                "<product id='0xc31c'/></source></hostdev>"
            ),
            GuestDevice("usb", "USB device 046d:c31c", UsbSource(None, None, "046d", "c31c")),
        ),
        (
            (
                "<hostdev mode='subsystem' type='usb'><source><vendor id='0x046d'/>"
                "<product id='0xc31c'/><address bus='1' device='4'/></source></hostdev>"
            ),
            GuestDevice("usb", "USB device 1:4", UsbSource(1, 4, "046d", "c31c")),
        ),
        (
            (
                "<hostdev mode='subsystem' type='mdev' model='vfio-pci'>"
                f"<source><address uuid='{UUID.upper()}'/></source></hostdev>"
            ),
            GuestDevice("mdev", f"mdev {UUID}", MdevSource(UUID)),
        ),
        (
            (
                "<hostdev mode='capabilities' type='storage'>"
                "<source><block>/dev/sdf1</block></source></hostdev>"
            ),
            GuestDevice("block_disk", "block device /dev/sdf1", PathSource("/dev/sdf1")),
        ),
        (
            (
                "<hostdev mode='capabilities' type='misc'>"
                "<source><char>/dev/input/event3</char></source></hostdev>"
            ),
            GuestDevice(
                "char_device",
                "character device /dev/input/event3",
                PathSource("/dev/input/event3"),
            ),
        ),
        (
            (
                "<hostdev mode='capabilities' type='net'>"
                "<source><interface>eth1</interface></source></hostdev>"
            ),
            GuestDevice("macvtap", "interface eth1", InterfaceSource("eth1")),
        ),
        (
            "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>",
            GuestDevice(
                "vdpa",
                "vDPA interface on /dev/vhost-vdpa-0",
                PathSource("/dev/vhost-vdpa-0"),
            ),
        ),
        (
            "<interface type='direct'><source dev='eth0' mode='bridge'/></interface>",
            GuestDevice("macvtap", "macvtap interface on eth0", InterfaceSource("eth0")),
        ),
        (
            (
                "<interface type='network'><source network='lan'/>"
                "<actual type='direct'><source dev='eth0' mode='vepa'/></actual></interface>"
            ),
            GuestDevice("macvtap", "macvtap interface on eth0", InterfaceSource("eth0")),
        ),
        (
            (
                "<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/share'/>"
                "<target dir='share'/></filesystem>"
            ),
            GuestDevice("block_disk", "file system on /srv/share", PathSource("/srv/share")),
        ),
        (
            "<serial type='dev'><source path='/dev/ttyS4'/></serial>",
            GuestDevice("char_device", "serial on /dev/ttyS4", PathSource("/dev/ttyS4")),
        ),
        (
            "<input type='evdev'><source dev='/dev/input/event1' grab='all'/></input>",
            GuestDevice(
                "char_device", "input on /dev/input/event1", PathSource("/dev/input/event1")
            ),
        ),
        (
            "<graphics type='egl-headless'><gl rendernode='/dev/dri/renderD128'/></graphics>",
            GuestDevice(
                "char_device",
                "rendering on /dev/dri/renderD128",
                PathSource("/dev/dri/renderD128"),
            ),
        ),
    ],
)
def test_each_way_to_use_a_device_of_the_host(xml: str, device: GuestDevice) -> None:
    assert parse(xml) == (device,)


@pytest.mark.parametrize(
    "xml",
    [
        "<disk type='network'><source protocol='rbd' name='pool/a'/><target dev='vda'/></disk>",
        "<disk type='vhostuser'><source type='unix' path='/run/a.sock'/></disk>",
        "<disk type='file' device='cdrom'><target dev='sda'/></disk>",
        (
            "<disk type='network'><source protocol='iscsi' name='iqn'><reservations managed='no'>"
            "<source type='unix' path='/dev/a' file='/dev/b'/></reservations></source>"
            "</disk>"
        ),
        "<hostdev mode='subsystem' type='scsi'><source protocol='iscsi' name='iqn'/></hostdev>",
        "<hostdev mode='subsystem' type='scsi_host'><source protocol='vhost'/></hostdev>",
        "<hostdev mode='subsystem' type='usb'/>",
        "<hostdev mode='subsystem' type='usb'><source/></hostdev>",
        "<hostdev mode='subsystem' type='mdev'><source/></hostdev>",
        "<hostdev mode='capabilities' type='storage'><source/></hostdev>",
        "<hostdev mode='capabilities' type='misc'><source/></hostdev>",
        "<hostdev mode='capabilities' type='net'><source/></hostdev>",
        "<interface type='bridge'><source bridge='br0'/></interface>",
        "<interface type='user'/>",
        "<filesystem type='ram'><source usage='1'/></filesystem>",
        "<serial type='pty'/>",
        "<input type='tablet' bus='usb'/>",
        "<input type='passthrough'><source/></input>",
        (
            "<hostdev mode='subsystem' type='pci'><source>"
            "<address domain='0' bus='3' slot='0' function='0'/></source></hostdev>"
        ),
    ],
)
def test_what_is_on_no_device_of_the_host_is_none(xml: str) -> None:
    assert parse(xml) == ()


def test_every_image_of_a_chain_counts() -> None:
    devices = parse(
        "<disk type='file'><source file='/srv/top.qcow2'/>"
        "<backingStore type='block'><format type='raw'/><source dev='/dev/vg/base'/>"
        "<backingStore/></backingStore>"
        "<mirror type='block' job='copy'><source dev='/dev/sdc'/></mirror>"
        "<target dev='vda'/></disk>"
    )
    assert [each.source for each in devices] == [
        PathSource("/srv/top.qcow2"),
        PathSource("/dev/vg/base"),
        PathSource("/dev/sdc"),
    ]


def test_the_same_reference_counts_once() -> None:
    disk = "<disk type='block'><source dev='/dev/sdb'/><target dev='vda'/></disk>"
    assert len(parse(disk, disk)) == 1


@pytest.mark.parametrize(
    ("kind", "source"),
    [("scsi", "<adapter name='scsi_hostX'/>"), ("usb", "<address bus='1' device='x'/>")],
)
def test_a_number_that_is_none_names_the_domain(kind: str, source: str) -> None:
    with pytest.raises(LibvirtFailedError, match="domain vm has a device at no address"):
        parse(f"<hostdev mode='subsystem' type='{kind}'><source>{source}</source></hostdev>")
