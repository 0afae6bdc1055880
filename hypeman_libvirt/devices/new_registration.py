"""What a new registration says of a device, and whether one was just made."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.card import Fingerprint
from hypeman_libvirt.devices.fingerprint import fingerprint_all
from hypeman_libvirt.devices.model import Caller, Registration, Vgpu
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.devices.ports import Clock, Host, NewId
from hypeman_libvirt.devices.vgpu import name_of_type

_LOST_REPLY: Final = timedelta(minutes=1)
"""How long after a registration the same request counts as a retry of it."""


class RegistrationFactory:
    """Writes down what a device is at the moment of its registration."""

    def __init__(self, host: Host, clock: Clock, new_id: NewId) -> None:
        """Take the host, the clock, and what makes a CUID2."""
        self._host = host
        self._clock = clock
        self._new_id = new_id

    def make(
        self,
        node: NodeDevice,
        name: str | None,
        tags: Mapping[str, str],
        caller: Caller,
        vgpu: Vgpu | None = None,
    ) -> Registration:
        """Describe a device under a new id.

        Args:
            node: What libvirt says of it; of a mediated device that is to be made, of its parent.
            name: None for the default name.
            tags: Free words.
            caller: On whose behalf.
            vgpu: The slice that is to be made; None for a device as it is.
        """
        vgpu = vgpu or self._vgpu(node)
        device = (vgpu and vgpu.mdev) or node.address
        of_card = vgpu is None or vgpu.mdev is None
        return Registration(
            id=self._new_id(),
            host=self._host.key(),
            pci_address=node.address,
            name=name or device.default_name,
            created_at=self._clock(),
            created_by=caller.subject,
            vendor_id=node.vendor_id,
            device_id=node.device_id,
            class_code=node.class_code,
            serial=node.serial,
            fingerprint=self._fingerprint(node) if of_card else None,
            iommu_group=node.iommu_group,
            host_driver=rules.host_driver(node) if of_card else None,
            tags=dict(tags),
            vgpu=vgpu,
        )

    def is_recent(self, earlier: Registration, caller: Caller) -> bool:
        """Whether the caller has just made a registration, whose reply may be what was lost."""
        apart = abs(self._clock() - earlier.created_at)  # the clock may have been set back
        return earlier.created_by == caller.subject and apart <= _LOST_REPLY

    def _vgpu(self, node: NodeDevice) -> Vgpu | None:
        if node.mdev is None:
            return None
        parent, type_id = self._host.node_device(node.address), node.mdev.type_id
        profile = name_of_type(parent.vgpu_profiles if parent else (), type_id)
        return Vgpu(type_id, profile, node.mdev.uuid)

    def _fingerprint(self, node: NodeDevice) -> Fingerprint | None:
        return fingerprint_all(self._host.read_node_devices()).get(node.address)
