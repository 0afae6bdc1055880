"""What may be done with a device: rules over plain facts, which read nothing themselves."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from hypeman_libvirt.devices.address import HostDeviceId, PciAddress
from hypeman_libvirt.devices.domain import Assignment, GuestInterface
from hypeman_libvirt.devices.errors import (
    BadRequestError,
    InUseError,
    InvalidNameError,
    InvalidTagsError,
    IommuUnavailableError,
    NotAssignableError,
)
from hypeman_libvirt.devices.model import (
    Device,
    DeviceState,
    DeviceType,
    GroupStatus,
    Quarantine,
    Registration,
)
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.devices.ports import AssignmentsByDevice

MAX_NAME: Final = 128
MAX_TAGS: Final = 50
RESERVED_NAMES: Final = frozenset(
    {"available", "claims", "events", "history", "preflight", "topology", "vgpu-profiles"}
)
"""Names that the API's own paths have in the place of a device's."""

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_OF_LIBVIRT: Final = re.compile(r"(pci|mdev)_.*", re.IGNORECASE)
_TAG_KEY: Final = re.compile(r"[A-Za-z0-9 _.:/=+@-]{1,128}")
_TAG_VALUE: Final = re.compile(r"[A-Za-z0-9 _.:/=+@-]{0,256}")
_GPU_CLASSES: Final = frozenset({0x0300, 0x0302, 0x0380})
_BRIDGE_BASE_CLASS: Final = 0x06
_NETWORK_BASE_CLASS: Final = 0x02
_OTHER_BRIDGE_CLASS: Final = 0x0680
_NVIDIA: Final = "10de"
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_LONGEST_MAC: Final = 20
_LAST_VLAN: Final = 4094
_NVIDIAS_DRIVER: Final = "nvidia"
_HARMLESS_DRIVERS: Final = frozenset({"pcieport", "pci-stub", "shpchp"})
"""They do no DMA, so that the kernel lets a guest have their group.

Source: the kernel's ``driver_managed_dma``, in drivers/pci and Documentation/driver-api/vfio.rst.
"""

VFIO_PCI: Final = "vfio-pci"
KEEPS_PROVIDERS: Final = (9, 7, 0)
"""The first libvirt that knows a VFIO provider other than vfio-pci."""

IOMMU_HINT: Final = (
    "turn on VT-d or AMD-Vi in the firmware and add intel_iommu=on to the kernel command line "
    "(AMD needs no option), then reboot"
)


def device_type(node: NodeDevice) -> DeviceType:
    """``gpu`` for VGA, 3D and other display controllers, ``pci`` for everything else.

    Source: PCI Code and ID Assignment Specification, base class 03h.
    """
    return class_type(node.class_code)


def class_type(class_code: int | None) -> DeviceType:
    """``gpu`` or ``pci``, from a 24 bit class code."""
    return "gpu" if class_code is not None and class_code >> 8 in _GPU_CLASSES else "pci"


def is_network_card(node: NodeDevice) -> bool:
    """Whether it is a network controller. Source: PCI Code and ID Assignment Specification."""
    return node.class_code is not None and node.class_code >> 16 == _NETWORK_BASE_CLASS


def on_vfio(driver: str | None) -> bool:
    """Whether the driver is vfio-pci or a vendor's variant of it, such as mlx5_vfio_pci.

    Source: the kernel, drivers/vfio/pci.
    """
    return driver is not None and driver.replace("_", "-").endswith(VFIO_PCI)


def is_vfio_provider(node: NodeDevice) -> bool:
    """Whether its driver, other than vfio-pci, gives it to guests: it must stay on that driver.

    A remote host's are known by what libvirt says: the name of a driver, and of NVIDIA's that it
    has a virtual function and offers no mediated devices on it, since only vGPUs are that.
    """
    by_name = on_vfio(node.driver) and node.driver != VFIO_PCI
    if node.is_vfio_provider is not None:
        return node.is_vfio_provider or by_name
    is_nvidias = node.driver == _NVIDIAS_DRIVER and node.physical_function is not None
    return by_name or (is_nvidias and not node.vgpu_profiles)


def is_on_vfio(node: NodeDevice) -> bool:
    """Whether a guest can have the device as it is: on vfio-pci, or on a provider of its own.

    Every mediated device is.
    """
    return on_vfio(node.driver) or is_vfio_provider(node) or node.mdev is not None


def on_host_driver(node: NodeDevice) -> bool:
    """Whether the host itself drives the device."""
    return node.driver is not None and not is_on_vfio(node)


def host_driver(node: NodeDevice) -> str | None:
    """Return the driver to which the device belongs; None where it has none, or a vfio one."""
    return None if on_vfio(node.driver) else node.driver


def keeps_providers(libvirt: str) -> bool:
    """Whether a libvirt leaves devices on drivers that are their own VFIO providers.

    Args:
        libvirt: Its version, such as ``9.0.0``.

    Source: libvirt 9.7.0, virPCIDeviceGetCurrentDriverNameAndType(), which looks for ``vfio-dev``.
    """
    return tuple(map(int, libvirt.split("."))) >= KEEPS_PROVIDERS


def is_endpoint(node: NodeDevice) -> bool:
    """Whether it can be assigned at all: neither a bridge nor of class 06, or an NVSwitch."""
    if is_nvswitch(node):
        return not node.is_bridge
    of_bridge_class = node.class_code is not None and node.class_code >> 16 == _BRIDGE_BASE_CLASS
    return not (node.is_bridge or of_bridge_class)


def is_nvswitch(node: NodeDevice) -> bool:
    """Whether it joins GPUs of NVIDIA's: of the class of other bridges, and an endpoint.

    Source: NVIDIA Fabric Manager User Guide, virtualization models.
    """
    class_code = node.class_code or 0
    return node.vendor_id == _NVIDIA and class_code >> 8 == _OTHER_BRIDGE_CLASS


def may_be_on_nvswitch(node: NodeDevice) -> bool:
    """Whether it is an NVSwitch, or a physical GPU of NVIDIA's that may be on one."""
    is_gpu = node.vendor_id == _NVIDIA and device_type(node) == "gpu"
    return is_nvswitch(node) or (is_gpu and node.physical_function is None)


def is_obstacle(node: NodeDevice) -> bool:
    """Whether the kernel would refuse the group to a guest because of this member.

    A bridge is none, nor is a member without a driver. A host or ISA bridge is one when a driver
    of its own is bound, for that driver does DMA.
    """
    return on_host_driver(node) and not node.is_bridge and node.driver not in _HARMLESS_DRIVERS


def obstacles(
    group: Iterable[NodeDevice], taking: Collection[PciAddress] = ()
) -> Sequence[NodeDevice]:
    """Members that stand in the way once the devices in ``taking`` are on vfio-pci."""
    return [node for node in group if node.address not in taking and is_obstacle(node)]


def group_status(group: Sequence[NodeDevice]) -> GroupStatus:
    """Whether a guest could have the group: now, once its endpoints are bound, or never."""
    endpoints = [node.address for node in group if is_endpoint(node)]
    if not endpoints or obstacles(group, endpoints):
        return "never"
    return "needs_bind" if obstacles(group) else "viable"


def kind(node: NodeDevice) -> str:
    """What it is, in a word for people, such as ``GPU`` or ``audio``."""
    class_code = node.class_code or 0
    if device_type(node) == "gpu":
        return "GPU"
    if is_nvswitch(node):
        return "NVSwitch"
    if class_code >> 8 == _AUDIO_CLASS:
        return "audio"
    return _KINDS.get(class_code >> 16, "PCI function")


def describe(node: NodeDevice) -> str:
    """Address, what it is and its driver: ``0000:82:00.1 (audio, driver snd_hda_intel)``."""
    return f"{node.address} ({kind(node)}, driver {node.driver or 'none'})"


_AUDIO_CLASS: Final = 0x0403
_KINDS: Final = {0x01: "storage", 0x02: "network", 0x06: "bridge", 0x0C: "serial bus"}


def describe_assignment(assignment: Assignment) -> str:
    """Say which domain has a device, and how: ``domain gpu-guest (UUID …, running)``."""
    domain = assignment.domain
    described = f"domain {domain.name} (UUID {domain.uuid}, {domain.state})"
    return f"{described} through {assignment.via}" if assignment.via else described


def in_use(assignment: Assignment) -> InUseError:
    """The refusal that names which domain has a device, and how."""
    hint = "detach it there first"
    if assignment.kind not in {"hostdev", "interface", "mdev"} or not assignment.direct:
        hint = f"take {assignment.via or 'its disk'} out of the domain first"
    return InUseError(
        f"{assignment.device} is in use by {describe_assignment(assignment)}", hint=hint
    )


def check_assignable(node: NodeDevice) -> None:
    """Accept endpoints in an IOMMU group; refuse all else.

    Raises:
        NotAssignableError: It is a bridge.
        IommuUnavailableError: It is in no IOMMU group.
    """
    if not is_endpoint(node):
        raise NotAssignableError(
            f"{node.address} is a bridge and stays with the host",
            hint="choose a device behind it; GET /devices/available lists them",
        )
    if node.iommu_group is None:
        raise IommuUnavailableError(f"{node.address} is in no IOMMU group", hint=IOMMU_HINT)


def check_name(name: str) -> None:
    """Accept names that fit a path and stand for nothing else.

    No PCI address passes either, since a name has no colon.

    Raises:
        InvalidNameError: Too short or long, a character that is not allowed, reserved, or what
            libvirt could name a node device.
    """
    if name in RESERVED_NAMES:
        raise InvalidNameError(f"name {name!r} is reserved", hint="choose another")
    if len(name) > MAX_NAME:
        raise InvalidNameError(
            f"the name has {len(name)} characters", hint=f"use at most {MAX_NAME}"
        )
    if not _NAME.fullmatch(name):
        raise InvalidNameError(
            f"name {name!r} is not allowed",
            hint="use at least two of a-z A-Z 0-9 _ . - and start with a letter or a digit",
        )
    if looks_like_node_device(name):
        raise InvalidNameError(
            f"name {name!r} looks like a node device of libvirt's",
            hint="choose one that does not begin with pci_ or mdev_, or none: the default is "
            "pci- and the address",
        )


def looks_like_node_device(name: str) -> bool:
    """Whether libvirt could name a node device so: ``pci_0000_a2_00_0``, ``mdev_…``."""
    return _OF_LIBVIRT.fullmatch(name) is not None


def is_misleading(registration: Registration) -> bool:
    """Whether its name could be the node device of something else; older versions allowed that."""
    own = registration.pci_address.node_device_name
    return registration.name != own and looks_like_node_device(registration.name)


def check_interface(interface: GuestInterface) -> None:
    """Accept an address that a guest's interface can have, and a VLAN that there can be.

    Raises:
        BadRequestError: The MAC address is none, or a group's; or the VLAN is out of range.
    """
    mac, vlan = interface.mac, interface.vlan
    if mac is not None and not (_MAC.fullmatch(mac) and int(mac[:2], 16) % 2 == 0):
        raise BadRequestError(
            f"mac {mac[:_LONGEST_MAC]!r} is no MAC address of one interface",
            hint="write it like 52:54:00:12:34:56; the first number is even",
        )
    if vlan is not None and not 0 < vlan <= _LAST_VLAN:
        raise BadRequestError(f"vlan {vlan} is out of range", hint=f"use 1 to {_LAST_VLAN}")


def check_tags(tags: Mapping[str, str]) -> None:
    """Accept the tags that hypeman accepts.

    Raises:
        InvalidTagsError: Too many, or a key or value that is too long or has other characters.
    """
    if len(tags) > MAX_TAGS:
        raise InvalidTagsError(f"{len(tags)} tags are too many", hint=f"use at most {MAX_TAGS}")
    for key, value in tags.items():
        if not _TAG_KEY.fullmatch(key):
            raise InvalidTagsError(
                f"tag key {key[:MAX_NAME]!r} is not allowed",
                hint="use 1 to 128 of letters, digits, space and _ . : / = + @ -",
            )
        if not _TAG_VALUE.fullmatch(value):
            raise InvalidTagsError(
                f"the value of tag {key!r} is not allowed",
                hint="use up to 256 of letters, digits, space and _ . : / = + @ -",
            )


def differences(registration: Registration, node: NodeDevice) -> Sequence[str]:
    """What of the hardware differs from the registration, for people; empty when nothing does.

    What libvirt did not say then or does not say now is unknown and differs from nothing: vital
    product data cannot be read from every device in every power state.
    """
    pairs = (
        ("vendor:device", _ids(registration), _ids(node)),
        ("class", _hex(registration.class_code), _hex(node.class_code)),
        ("serial", registration.serial, node.serial),
        ("vGPU type", *_vgpu_types(registration, node)),
    )
    return [
        f"{what} {now} instead of {then}"
        for what, then, now in pairs
        if then is not None and now is not None and then != now
    ]


def _vgpu_types(registration: Registration, node: NodeDevice) -> tuple[str | None, str | None]:
    """Return the type at registration and now; a host that does not say now says nothing."""
    now = node.mdev.type_id if node.mdev else node.vgpu_type
    return registration.vgpu.type_id if registration.vgpu else None, now


def _ids(of: Registration | NodeDevice) -> str:
    return f"{of.vendor_id}:{of.device_id}"


def _hex(class_code: int | None) -> str | None:
    return None if class_code is None else f"0x{class_code:06x}"


def device_state(device: Device) -> DeviceState:
    """Whether the registered card is at its address."""
    if device.verdict is not None:
        return "present" if device.verdict.state == "follow" else device.verdict.state
    if device.node is None:
        return "missing"
    return "changed" if differences(device.registration, device.node) else "present"


def in_effect(quarantine: Quarantine | None, assignment: Assignment | None) -> Quarantine | None:
    """Return a quarantine that has begun; one after a use begins when no domain has the device."""
    if quarantine is not None and quarantine.after_use and assignment is not None:
        return None
    return quarantine


def first_assignment(assignments: AssignmentsByDevice, device: HostDeviceId) -> Assignment | None:
    """Return the domain that has the device itself, a running one before one that defines it."""
    return next((each for each in assignments.get(device, ()) if each.direct), None)
