"""Which PCI devices guests live on through something else: a disk, a USB device, a share of a NIC.

A reference that is traced makes its domain a user of every PCI function below it, and that is
never overridden. One that cannot be traced (on a remote host, or where sysfs does not say) makes
every device of its kind one that may be in use, as long as the domain runs: such a device is
refused as what the host itself may live on is, and ``force`` overrides that. A definition that
refers to what is not there now stops no operation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.host.usage.local_host import LocalHost
from hypeman_libvirt.host.usage.local_references import LocalReferences
from hypeman_libvirt.host.usage.tree_references import TreeReferences
from hypeman_libvirt.host.xml.guest_devices import (
    GuestDevice,
    GuestDeviceKind,
    PathSource,
    PciSource,
    Source,
    VolumeSource,
)
from hypeman_libvirt.host.xml.node_device import is_of_class
from hypeman_libvirt.host.xml.node_tree import TreeNode

FindVolume: TypeAlias = Callable[[str, str], str | None]
"""Returns the path of a pool's volume; None where libvirt does not know it now."""

Trace: TypeAlias = Callable[[GuestDevice], Collection[PciAddress] | None]
"""Says on which PCI functions something of a domain's lies; None where that is unknown."""

_CARRIERS: Final[Mapping[GuestDeviceKind, Sequence[str]]] = {
    "block_disk": (),
    "nvme_disk": (),
    "scsi": ("01",),
    "scsi_host": ("01",),
    "usb": ("0c03",),
    "mdev": (),
    "vdpa": ("01", "02"),
    "macvtap": ("02",),
    "char_device": ("03", "07", "0c03"),
}
"""By kind of reference, classes of PCI functions that may carry it."""


@dataclass(frozen=True, slots=True)
class UntracedDevice:
    """What a running domain uses, of which no PCI function is known.

    Attributes:
        domain: Its name.
        device: What it uses.
    """

    domain: str
    device: GuestDevice


class DomainReferences(Protocol):
    """Traces references of domains down to PCI functions."""

    def trace(self, source: Source) -> frozenset[PciAddress] | None:
        """Return the functions that it lies on, none for one on no PCI; None when unknown."""


class GuestUsage:
    """Traces what guests use, on the host itself by sysfs, else by libvirt's node devices."""

    def __init__(
        self,
        list_tree: Callable[[], Sequence[TreeNode]],
        find_volume: FindVolume,
        local: LocalHost | None,
    ) -> None:
        """Take who lists libvirt's node devices and finds volumes, and the host if it is local.

        Args:
            list_tree: Called once for each trace at most, and for a remote host alone.
            find_volume: Called for each reference to a volume.
            local: None for a remote host, or for one that is made up.
        """
        self._list_tree = list_tree
        self._find_volume = find_volume
        self._local = local

    def new_trace(self) -> Trace:
        """Return what traces many references at one moment; the first of them has that read."""
        return GuestUsageSnapshot(self._find_volume, self._read).trace

    def _read(self) -> DomainReferences:
        if self._local is not None:
            return LocalReferences(self._local.files)
        return TreeReferences(self._list_tree)


class GuestUsageSnapshot:
    """What references lie on at one moment."""

    def __init__(self, find_volume: FindVolume, read: Callable[[], DomainReferences]) -> None:
        """Read when the first reference is traced."""
        self._find_volume = find_volume
        self._read = read
        self._references: DomainReferences | None = None

    def trace(self, device: GuestDevice) -> frozenset[PciAddress] | None:
        """Return the PCI functions that something of a domain's lies on; None when unknown.

        Raises: whatever ``find_volume`` and ``list_tree`` raise.
        """
        source: Source | None = device.source
        if isinstance(source, PciSource):
            return frozenset({source.address})
        if isinstance(source, VolumeSource):
            path = self._find_volume(source.pool, source.volume)
            source = None if path is None else PathSource(path)
        if self._references is None:
            self._references = self._read()
        return None if source is None else self._references.trace(source)


def may_carry(device: NodeDevice, untraced: GuestDevice, *, has_disks: bool) -> bool:
    """Whether a PCI function is of the kind that something untraced may lie on.

    Args:
        device: The PCI function.
        untraced: What is searched for.
        has_disks: Block devices are seen on it.
    """
    if untraced.kind == "block_disk":
        return has_disks
    if untraced.kind == "mdev":
        return bool(device.vgpu_profiles)
    return any(is_of_class(device.class_code, each) for each in _CARRIERS[untraced.kind])
