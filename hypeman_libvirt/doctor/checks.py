"""The doctor's checks: one function each, over facts; none reads anything itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.definitions import describe_expecting
from hypeman_libvirt.devices.domain import Assignment
from hypeman_libvirt.devices.errors import DeviceError, LibvirtDeniedError
from hypeman_libvirt.devices.model import Device
from hypeman_libvirt.doctor.boot_checks import check_boot
from hypeman_libvirt.doctor.facts import Facts, Finding, Libvirt, Machine, Unreadable
from hypeman_libvirt.doctor.interrupted import check_interrupted
from hypeman_libvirt.doctor.service_checks import check_service
from hypeman_libvirt.doctor.vgpu_checks import check_slices
from hypeman_libvirt.host.xml.domain import DEVICES_NAMESPACE

_OLDEST: Final = (9, 0)
"""The oldest libvirt that this was measured on."""
_RIGHTS: Final = (
    "install contrib/polkit/50-hypeman-libvirt.rules in /etc/polkit-1/rules.d, "
    "or add the service's user to the group libvirt"
)
_RESTART: Final = "systemctl restart libvirtd, or virtnodedevd where libvirt is split"
_REBOOT: Final = "then update-grub and reboot"
_ENOUGH: Final = 2024


def diagnose(facts: Facts) -> Sequence[Finding]:
    """Run every check that these facts allow, the most fundamental ones first."""
    return [
        *check_service(facts),
        check_clock(facts),
        check_registry(facts),
        check_libvirt(facts),
        *_ask_libvirt(facts),
    ]


def check_clock(facts: Facts) -> Finding:
    """Tokens end by the clock."""
    newest = facts.registry.newest
    if facts.now.year < _ENOUGH or (newest is not None and newest > facts.now):
        message = f"the clock says {facts.now:%Y-%m-%d %H:%M} UTC, and that has been before"
        return Finding("clock", "error", message, "timedatectl set-ntp true")
    return Finding("clock", "ok", f"{facts.now:%Y-%m-%d %H:%M} UTC")


def check_registry(facts: Facts) -> Finding:
    """The registry can be read and written."""
    registry = facts.registry
    if registry.problem is not None:
        cure = "hypeman-libvirt serve --help names the setting; the log says more"
        if registry.closed:
            cure = "sudo hypeman-libvirt doctor"
        return Finding("registry", "error", registry.problem, cure)
    if not registry.exists:
        return Finding("registry", "ok", f"{registry.location} is made at the first start")
    return Finding("registry", "ok", f"{registry.location} is healthy and can be written")


def check_libvirt(facts: Facts) -> Finding:
    """libvirt answers, and is not older than what was measured."""
    libvirt = facts.libvirt
    if isinstance(libvirt, LibvirtDeniedError):
        return Finding("libvirt", "error", libvirt.message, _RIGHTS)
    if isinstance(libvirt, DeviceError):
        return _unreachable(libvirt, facts.machine)
    version = tuple(int(part) for part in libvirt.version.split(".")[:2])
    if version < _OLDEST:
        message = f"libvirt {libvirt.version} is older than any that this was tested with"
        return Finding("libvirt", "warning", message, "apt-get upgrade libvirt-daemon-system")
    return Finding("libvirt", "ok", f"libvirt {libvirt.version} answers at {libvirt.identity.uri}")


def _unreachable(error: DeviceError, machine: Machine | None) -> Finding:
    if machine is None:
        cure = "check the URI and the way there: virsh -c URI version"
        return Finding("libvirt", "error", error.message, cure)
    if machine.socket == "denied":
        return Finding("libvirt", "error", "this user may not open libvirt's socket", _RIGHTS)
    if machine.socket == "answers":
        message = "libvirt takes connections and does not serve them"
        return Finding(
            "libvirt", "error", message, "journalctl -u libvirtd -u virtqemud; " + _RESTART
        )
    cure = "systemctl enable --now libvirtd.socket, or virtqemud.socket and virtnodedevd.socket"
    return Finding("libvirt", "error", "libvirt is not running", cure)


def _ask_libvirt(facts: Facts) -> Iterator[Finding]:
    """Ask what only a libvirt that answers can say."""
    libvirt = facts.libvirt
    if isinstance(libvirt, DeviceError):
        return
    yield check_node_devices(libvirt)
    yield check_domains(libvirt)
    yield check_events(libvirt)
    yield check_iommu(libvirt, facts.machine)
    yield check_vfio(libvirt, facts.machine)
    yield check_host_uuid(libvirt)
    yield from check_other_hosts(facts, libvirt)
    yield from check_devices(facts.devices, facts.expecting)
    yield from check_slices(facts, libvirt)
    yield from check_boot(facts)
    yield from check_interrupted(facts.groups, facts.noted, facts.misplaced)
    yield from check_notes(facts.unreadable)


def check_node_devices(libvirt: Libvirt) -> Finding:
    """libvirt's node device driver is alive and lets us read."""
    count = libvirt.node_devices
    if isinstance(count, LibvirtDeniedError):
        message = "libvirt does not let this user read node devices (node-device.read)"
        return Finding("node_devices", "error", message, _RIGHTS)
    if isinstance(count, DeviceError):
        message = f"libvirt's node device driver does not answer: {count.message}"
        return Finding("node_devices", "error", message, _RESTART)
    if not count:
        message = "libvirt lists no PCI device"
        return Finding(
            "node_devices", "error", message, "apt-get install libvirt-daemon; " + _RESTART
        )
    return Finding("node_devices", "ok", f"libvirt lists {count} PCI functions")


def check_domains(libvirt: Libvirt) -> Finding:
    """Domains can be read: which of them holds a device must be known."""
    if isinstance(libvirt.domains, LibvirtDeniedError):
        message = "libvirt does not let this user read domains (domain.read)"
        return Finding("domains", "error", message, _RIGHTS)
    if libvirt.domains is not None:
        return Finding(
            "domains", "error", libvirt.domains.message, "virsh list --all; the log says more"
        )
    return Finding("domains", "ok", "domains can be read")


def check_events(libvirt: Libvirt) -> Finding:
    """libvirt announces what changes, so that answers need not ask it anew."""
    if not libvirt.unannounced:
        return Finding("events", "ok", "libvirt announces changes, or its driver never does")
    whys = [f"of a {what} ({why.message})" for what, why in sorted(libvirt.unannounced.items())]
    denied = any(isinstance(why, LibvirtDeniedError) for why in libvirt.unannounced.values())
    message = f"libvirt does not announce changes {' nor '.join(whys)}: every answer asks it anew"
    return Finding("events", "warning", message, _RIGHTS if denied else _RESTART)


def check_iommu(libvirt: Libvirt, machine: Machine | None) -> Finding:
    """The kernel has IOMMU groups."""
    if libvirt.grouped:
        return Finding("iommu", "ok", f"{libvirt.grouped} PCI functions are in IOMMU groups")
    message = "no PCI function is in an IOMMU group"
    if machine is None:
        return Finding("iommu", "error", message, rules.IOMMU_HINT)
    if machine.iommu_table is None:
        message = "the firmware shows no IOMMU (no ACPI table DMAR, IVRS, IORT or VIOT)"
        return Finding(
            "iommu", "error", message, "turn on VT-d, AMD-Vi or SMMU in the firmware setup"
        )
    if off := [word for word in machine.command_line if _turns_off(word)]:
        message = f"the kernel command line turns the IOMMU off: {' '.join(off)}"
        return Finding("iommu", "error", message, f"remove it from /etc/default/grub, {_REBOOT}")
    if machine.groups:
        message = f"the kernel has {machine.groups} IOMMU groups, and libvirt names none"
        return Finding("iommu", "error", message, _RESTART)
    option = "intel_iommu=on" if machine.iommu_table == "DMAR" else "iommu=pt"
    message = f"the firmware has an IOMMU ({machine.iommu_table}), and the kernel does not use it"
    return Finding("iommu", "error", message, f"add {option} to GRUB_CMDLINE_LINUX, {_REBOOT}")


def _turns_off(word: str) -> bool:
    name, _, value = word.partition("=")
    return name in {"iommu", "intel_iommu", "amd_iommu"} and "off" in value.split(",")


def check_vfio(libvirt: Libvirt, machine: Machine | None) -> Finding:
    """The kernel and the hypervisor can pass devices through."""
    if machine is not None and machine.vfio == "missing":
        cure = "apt-get install linux-image-amd64 and reboot; cloud kernels come without it"
        return Finding("vfio", "error", "this kernel has no vfio-pci", cure)
    if libvirt.has_vfio is False and libvirt.grouped:
        message = "libvirt says that its hypervisor does not pass PCI devices through"
        return Finding("vfio", "error", message, "modprobe vfio-pci; then " + _RESTART)
    if machine is None:
        return Finding("vfio", "ok", "libvirt does not say that VFIO is missing")
    return Finding("vfio", "ok", f"vfio-pci is {machine.vfio}")


def check_host_uuid(libvirt: Libvirt) -> Finding:
    """What registrations belong to must outlive a restart of libvirt."""
    identity = libvirt.identity
    message = f"registrations belong to {identity.key}"
    if identity.key != identity.uuid or not identity.is_made_up:
        return Finding("host_uuid", "ok", message)
    return Finding(
        "host_uuid",
        "warning",
        f"{message}, which libvirt has made up and makes up anew at each start",
        'on that host, set host_uuid_source = "machine-id" in /etc/libvirt/libvirtd.conf (or '
        "virtqemud.conf) and restart it; then hypeman-libvirt registry adopt",
    )


def check_other_hosts(facts: Facts, libvirt: Libvirt) -> Iterator[Finding]:
    """Registrations of a host that is not this one are not listed."""
    for host, count in sorted(facts.registry.of_other_hosts.items()):
        message = (
            f"{count} registration(s) belong to host {host}, and this is {libvirt.identity.key}"
        )
        cure = f"if that was this host: hypeman-libvirt registry adopt {host}"
        yield Finding("other_host", "warning", message, cure)


def check_notes(unreadable: Sequence[Unreadable]) -> Iterator[Finding]:
    """What domains note of their devices can be read: nothing is attached to those whose cannot."""
    for each in unreadable:
        show = f"virsh metadata {each.domain} {DEVICES_NAMESPACE}"
        yield Finding(
            "notes",
            "warning",
            f"the metadata of {each.domain} cannot be read: {each.error.message}",
            f"{show} shows it; with --remove it is taken away",
        )


def check_devices(
    devices: Sequence[Device], expecting: Mapping[str, Sequence[Assignment]]
) -> Iterator[Finding]:
    """Registered devices are there and have a driver."""
    troubled = [
        finding
        for device in devices
        for finding in _check_device(device, expecting.get(device.registration.id, ()))
    ]
    yield from troubled
    if not troubled:
        yield Finding("devices", "ok", f"{len(devices)} registered device(s) are as they should be")


def _check_device(device: Device, expecting: Sequence[Assignment]) -> Iterator[Finding]:
    name, address = device.registration.name, device.registration.device
    state, defined = rules.device_state(device), describe_expecting(expecting)
    if rules.is_misleading(device.registration):
        message = f"{name} is the name of the device at {address}, and of a node device of libvirt"
        cure = f"register it under another name: hypeman-libvirt devices delete {address}"
        yield Finding("devices", "warning", message, cure)
    if device.quarantine is not None:
        reason = device.quarantine.reason
        message = f"{name}: {address} is quarantined, so that nobody is given it: {reason}"
        cure = f"look what it has; hypeman-libvirt devices clear {name}"
        yield Finding("devices", "warning", message, cure)
    if state == "missing" and device.registration.mdev is not None:
        cure = (
            "virsh nodedev-list --cap mdev --all shows its name, if it is defined, and virsh "
            f"nodedev-start starts it; else hypeman-libvirt devices delete {name}"
        )
        yield Finding("devices", "warning", f"{name}: the vGPU {address} is not active", cure)
    elif state == "missing":
        cure = f"plug it in again, or hypeman-libvirt devices delete {name}"
        yield Finding("devices", "warning", f"{name}: nothing is at {address}", cure)
    if state == "moved" and device.verdict is not None:
        places = " or ".join(map(str, device.verdict.candidates))
        cure = f"look which card it is; hypeman-libvirt devices move {name} --pci-address ADDRESS"
        yield Finding("devices", "warning", f"{name}: its card may be at {places}{defined}", cure)
    if state == "changed":
        cure = f"if that is meant: hypeman-libvirt devices delete {name}, and register it anew"
        message = f"{name}: other hardware is at {address}{defined}"
        yield Finding("devices", "warning", message, cure)
    if state == "present" and _has_lost_its_driver(device):
        lost = device.registration.host_driver
        yield Finding(
            "devices",
            "error",
            f"{name}: {address} has no driver, and was on {lost} when it was registered",
            f"echo {address} > /sys/bus/pci/drivers_probe; see dmesg",
        )


def _has_lost_its_driver(device: Device) -> bool:
    held = device.assignment is not None and device.assignment.live
    driver = device.node and device.node.driver
    return driver is None and device.registration.host_driver is not None and not held
