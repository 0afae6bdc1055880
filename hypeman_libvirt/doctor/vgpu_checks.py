"""The doctor's checks of what slices of cards need: virtual functions, vGPUs and their services."""

from __future__ import annotations

from collections.abc import Iterator

from hypeman_libvirt.devices.model import Device
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.doctor.facts import Facts, Finding, Libvirt

_ID = "slices"
_RUNS = "active"


def check_slices(facts: Facts, libvirt: Libvirt) -> Iterator[Finding]:
    """Slices are what they were made as, and whatever starts them at boot is there."""
    troubled = [
        *_check_functions(facts),
        *_check_types(facts),
        *(_check_services(facts) if libvirt.makes_vgpus else ()),
    ]
    yield from troubled or [Finding(_ID, "ok", "virtual functions and vGPUs are as they should be")]


def _check_functions(facts: Facts) -> Iterator[Finding]:
    nodes = {member.node.address: member.node for group in facts.groups for member in group.members}
    for rule in facts.boot_rules:
        node, wanted = nodes.get(rule.address), rule.virtual_functions
        if node is None or wanted is None or len(node.virtual_functions) == wanted:
            continue
        yield Finding(
            _ID,
            "warning",
            f"{rule.address} has {len(node.virtual_functions)} virtual functions, and is to have "
            f"{wanted}",
            f"echo {wanted} > /sys/bus/pci/devices/{rule.address}/sriov_numvfs (0 first, where it "
            "has others and nobody uses them)",
        )


def _check_types(facts: Facts) -> Iterator[Finding]:
    for device in facts.devices:
        lost = _lost_type(device, device.node)
        if lost is not None:
            name = device.registration.name
            yield Finding(
                _ID,
                "error",
                f"{name}: {device.registration.device} {lost}",
                f"hypeman-libvirt devices delete {name}, then devices create-vgpu",
            )


def _lost_type(device: Device, node: NodeDevice | None) -> str | None:
    """Say what has become of a vGPU that is there and is not what it was; None if it is well."""
    vgpu = device.registration.vgpu
    now = node and (node.mdev.type_id if node.mdev else node.vgpu_type)
    if vgpu is None or now in {None, vgpu.type_id}:
        return None
    return f"was made a {vgpu.profile} (type {vgpu.type_id}), and its type is {now} now"


def _check_services(facts: Facts) -> Iterator[Finding]:
    machine, manager = facts.machine, facts.vgpu_manager
    if machine is not None and machine.lost_mdevctl is not None:
        yield Finding(
            _ID,
            "warning",
            f"udev's rule calls {machine.lost_mdevctl}, which is not there, so that no vGPU "
            "starts with the host",
            f"ln -s $(command -v mdevctl) {machine.lost_mdevctl}",
        )
    if manager is not None and manager.active != _RUNS:
        yield Finding(
            _ID,
            "error",
            f"{manager.name} is {manager.active} ({manager.detail}): no domain starts with a vGPU",
            f"systemctl enable --now {manager.name}; journalctl -u {manager.name}",
        )
