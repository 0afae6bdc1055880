"""A slice of a GPU as JSON. Keys are added, never renamed: older registries keep theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypeman_libvirt.devices.address import HostDeviceId, MdevUuid, PciAddress
from hypeman_libvirt.devices.model import Registration, Vgpu


def write_vgpu(registration: Registration) -> Mapping[str, Any] | None:
    """Return what goes into the column; of a mediated device its parent as well."""
    vgpu = registration.vgpu
    if vgpu is None:
        return None
    return {
        "type_id": vgpu.type_id,
        "profile": vgpu.profile,
        "made": vgpu.made,
        "persist": vgpu.persist,
        "pci_address": str(registration.pci_address),
    }


def read_vgpu(device: HostDeviceId, column: Any) -> tuple[PciAddress, Vgpu | None]:  # noqa: ANN401 - JSON
    """Return where a device is, and what it is a slice of; None for one that is no slice."""
    if isinstance(device, MdevUuid):
        return PciAddress.parse(column["pci_address"]), _vgpu(column, device)
    return device, None if column is None else _vgpu(column, None)


def _vgpu(column: Mapping[str, Any], mdev: MdevUuid | None) -> Vgpu:
    kept = {"made": column["made"], "persist": column.get("persist", False)}
    return Vgpu(column["type_id"], column["profile"], mdev, **kept)
