"""The checks that keep a GPU on its driver while it is cut into vGPUs."""

from __future__ import annotations

from hypeman_libvirt.devices.errors import ErrorDetail, InUseError
from hypeman_libvirt.devices.model import Check
from hypeman_libvirt.devices.node_device import MediatedDevice
from hypeman_libvirt.devices.snapshot import Snapshot


def check_slices(snapshot: Snapshot) -> Check:
    """A GPU stays on its driver while any of its slices lives, used by a domain or not.

    libvirt refuses nothing here: detached from its driver the GPU takes its slices from guests.
    """
    if not snapshot.slices:
        return Check("slices", "ok", "no vGPU lives on it")
    found = [_describe_slice(snapshot, each) for each in snapshot.slices]
    raise InUseError(
        f"{snapshot.address} cannot leave its driver while vGPUs live on it: {', '.join(found)}",
        hint="delete those vGPUs first; force does not override this",
        details=[ErrorDetail("vgpu", each) for each in found],
    )


def _describe_slice(snapshot: Snapshot, mdev: MediatedDevice) -> str:
    registration = snapshot.registered_slices.get(mdev.uuid)
    called = f", registered as {registration.name}" if registration else ""
    return f"{mdev.uuid} ({mdev.type_id}{called})"
