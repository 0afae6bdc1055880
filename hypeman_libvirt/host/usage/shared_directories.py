"""Directories that a hypervisor below shares with this host: virtio-9p and virtiofs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import HostUse
from hypeman_libvirt.host.usage.mounts import Mount
from hypeman_libvirt.host.usage.sysfs import LocalFiles
from hypeman_libvirt.host.xml.node_tree import is_inside

_DRIVERS: Final = {
    "9p": "/sys/bus/virtio/drivers/9pnet_virtio",
    "virtiofs": "/sys/bus/virtio/drivers/virtiofs",
}
_DEVICE: Final = "virtio"
_VIRTIOFS: Final = "/sys/fs/virtiofs"
_OVER_VIRTIO: Final = "trans=virtio"


def list_share_uses(
    files: LocalFiles, mounts: Collection[Mount], address: PciAddress, directory: str
) -> Sequence[HostUse]:
    """Say which shared directories come by the PCI device that has this directory in sysfs."""
    uses = []
    for mount in mounts:
        devices = find_share_devices(files, mount) or ()
        if any(is_inside(device, directory) for device in devices):
            known = len(devices) == 1
            what = f"{mount.point} is {'' if known else 'perhaps '}mounted from it"
            uses.append(HostUse(address, what, known=known))
    return uses


def find_share_devices(files: LocalFiles, mount: Mount) -> Sequence[str] | None:
    """Return directories in sysfs of the devices that a share may come by; None for no share.

    Before Linux 6.9 the kernel does not show the tag of a virtiofs device: it may be any.

    Source: the kernel's net/9p/trans_virtio.c, mount_tag, and
    Documentation/ABI/testing/sysfs-fs-virtiofs.
    """
    over_virtio = mount.kind != "9p" or _OVER_VIRTIO in mount.options
    if mount.kind not in _DRIVERS or not over_virtio:
        return None
    tags = _read_tags(files, mount.kind)
    return [device for device, tag in tags.items() if tag == mount.source] or list(tags)


def _read_tags(files: LocalFiles, kind: str) -> Mapping[str, str]:
    """Return the tag of each device, empty where the kernel does not show it."""
    driver = _DRIVERS[kind]
    links = [f"{driver}/{name}" for name in files.names(driver) if name.startswith(_DEVICE)]
    tags = {files.resolve(link): files.text(f"{link}/mount_tag").rstrip("\0") for link in links}
    for name in files.names(_VIRTIOFS) if kind == "virtiofs" else ():
        tags[files.resolve(f"{_VIRTIOFS}/{name}/device")] = files.text(f"{_VIRTIOFS}/{name}/tag")
    return tags
