"""vGPUs of libvirt's test driver, which lists mediated devices and makes none: in memory."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from hypeman_libvirt.devices.address import MdevUuid, PciAddress
from hypeman_libvirt.devices.errors import InUseError, LibvirtFailedError, NotSupportedError
from hypeman_libvirt.devices.node_device import MediatedDevice, NodeDevice, VgpuProfile
from hypeman_libvirt.host.assignments import DomainReader
from hypeman_libvirt.host.connection import Connection
from hypeman_libvirt.host.mdevs import MediatedDevices
from hypeman_libvirt.host.node_devices import NodeDevices
from hypeman_libvirt.host.vendor_vgpus import NO_TYPE
from hypeman_libvirt.host.xml.guest_devices import MdevSource

_DRIVER: Final = "vfio_mdev"
_FIRST_GROUP: Final = 200
"""Above the groups of PCI functions in the file of the demo host."""


Room: TypeAlias = Mapping[str, tuple[str, int]]
"""By the id of a type its name, and how many vGPUs of it fit on a GPU."""


class MemorySlices:
    """vGPUs in memory, with the rule of NVIDIA's driver: one type on a GPU at a time.

    Source: NVIDIA's vGPU user guide, on GPUs in equal-size mode.
    """

    def __init__(self, functions: Mapping[PciAddress, Room]) -> None:
        """Begin with none.

        Args:
            functions: Virtual functions that can be vGPUs without mediated devices.
        """
        self._lock = threading.Lock()
        self._mdevs: dict[MdevUuid, MediatedDevice] = {}
        self._functions = functions
        self._types: dict[PciAddress, str] = {}

    def apply(self, node: NodeDevice) -> NodeDevice:
        """Add what the vGPUs of a PCI function are, and how many more fit."""
        room = self._functions.get(node.address)
        if room is None:
            return replace(node, vgpu_profiles=self.list_types(node))
        with self._lock:
            types = dict(self._types)
        own = types.get(node.address, NO_TYPE)
        living = [each for address, each in types.items() if self._functions[address] == room]
        fitting = [
            VgpuProfile(type_id, name, 1, "vendor")
            for type_id, (name, most) in room.items()
            if {*living} <= {type_id} and len(living) < most
        ]
        return replace(
            node,
            vgpu_type=own,
            vgpu_profiles=() if own != NO_TYPE else tuple(fitting),
            is_vfio_provider=own != NO_TYPE,
        )

    def set_type(self, function: PciAddress, vgpu_type: int) -> None:
        """Make a virtual function a vGPU of the type; 0 takes it away.

        Raises:
            NotSupportedError: It cannot be a vGPU of this type.
        """
        with self._lock:
            if vgpu_type and str(vgpu_type) not in self._functions.get(function, {}):
                raise NotSupportedError(f"{function} cannot be a vGPU of type {vgpu_type}")
            self._types.pop(function, None)
            if vgpu_type:
                self._types[function] = str(vgpu_type)

    def is_vgpu(self, function: PciAddress) -> bool:
        """Whether a virtual function is a vGPU."""
        with self._lock:
            return function in self._types

    def list_all(self) -> Sequence[MediatedDevice]:
        """List all, by UUID."""
        with self._lock:
            return sorted(self._mdevs.values(), key=lambda each: each.uuid)

    def list_types(self, node: NodeDevice) -> tuple[VgpuProfile, ...]:
        """Return the types of a PCI function, and how many more fit beside those that live."""
        living = [each.type_id for each in self.list_all() if each.parent == node.node_name]
        return tuple(
            replace(each, available=max(each.available - len(living), 0))
            if {*living} <= {each.type_id}
            else replace(each, available=0)
            for each in node.vgpu_profiles
        )

    def add(self, mdev: MdevUuid, parent: NodeDevice, type_id: str, *, autostart: bool) -> None:
        """Make one on a parent with room for it."""
        with self._lock:
            taken = {each.iommu_group or 0 for each in self._mdevs.values()}
            self._mdevs[mdev] = MediatedDevice(
                node_name=re.sub("[-:.]", "_", f"mdev_{mdev}_{parent.address}"),
                uuid=mdev,
                parent=parent.node_name,
                type_id=type_id,
                active=True,
                persistent=True,
                autostart=autostart,
                iommu_group=1 + max(taken, default=_FIRST_GROUP - 1),
                driver=_DRIVER,
            )

    def remove(self, mdev: MdevUuid) -> None:
        """End one; without it nothing happens."""
        with self._lock:
            self._mdevs.pop(mdev, None)


class TestDriverMdevs(MediatedDevices):
    """Mediated devices of the test driver."""

    def __init__(
        self, connection: Connection, node_devices: NodeDevices, slices: MemorySlices
    ) -> None:
        """Have slices of these node devices in memory."""
        super().__init__(connection)
        self._node_devices = node_devices
        self._slices = slices
        self._reader = DomainReader(connection)

    def list_devices(self) -> Sequence[MediatedDevice]:
        """List all, by UUID."""
        return self._slices.list_all()

    def find(self, mdev: MdevUuid) -> MediatedDevice | None:
        """Look up by UUID."""
        return next((each for each in self._slices.list_all() if each.uuid == mdev), None)

    def make(self, mdev: MdevUuid, parent: str, type_id: str, *, autostart: bool) -> None:
        """Make it, in memory.

        Raises:
            LibvirtFailedError: The parent has no room for it.
        """
        if self.find(mdev) is not None:
            return
        node = self._node_devices.find_named(parent)
        if node is None or not any(
            each.type_id == type_id and each.available for each in node.vgpu_profiles
        ):
            raise LibvirtFailedError(f"{parent} has no room for another {type_id}")
        self._slices.add(mdev, node, type_id, autostart=autostart)

    def remove(self, mdev: MdevUuid) -> None:
        """End it, in memory.

        Raises:
            InUseError: A running domain has it.
        """
        for name, record in self._reader.read_all().items():
            others = record.live.others if record.live else ()
            if any(each.source == MdevSource(mdev.text) for each in others):
                raise InUseError(f"{mdev} is in use by domain {name}; detach it first")
        self._slices.remove(mdev)
