"""What a host device is known by: its PCI address, or the UUID of a mediated device."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

from hypeman_libvirt.devices.errors import InvalidPciAddressError

_FULL: Final = re.compile(
    r"(?P<domain>[0-9a-f]{4,8}):(?P<bus>[0-9a-f]{2}):(?P<slot>[01][0-9a-f])\.(?P<function>[0-7])",
    re.IGNORECASE,
)
_EXCERPT: Final = 40
_WITHOUT_DOMAIN: Final = re.compile(r"[0-9a-f]{1,2}:[01]?[0-9a-f]\.[0-7]", re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class PciAddress:
    """Where a PCI function sits on the host.

    Attributes:
        domain: PCI domain, 0 to 0xffffffff; above 0xffff behind Intel VMD.
        bus: 0 to 0xff.
        slot: Device number on the bus, 0 to 0x1f.
        function: 0 to 7.

    Source: PCI Express Base Specification, section 2.2.6.2; the kernel's ``pci_name()``.
    """

    domain: int
    bus: int
    slot: int
    function: int

    @classmethod
    def parse(cls, text: str) -> PciAddress:
        """Read ``dddd:bb:ss.f``, hex of either case, the domain with 4 to 8 digits.

        Raises:
            InvalidPciAddressError: The text is not such an address.
        """
        match = _FULL.fullmatch(text)
        if match is None:
            raise InvalidPciAddressError(_explain(text))
        return cls(*(int(part, 16) for part in match.groups()))

    @property
    def default_name(self) -> str:
        """Name of a device that was registered without one: ``pci-0000-a2-00-0``."""
        return "pci-" + str(self).replace(":", "-").replace(".", "-")

    @property
    def node_device_name(self) -> str:
        """libvirt's name on hosts with udev: ``pci_0000_a2_00_0``.

        Source: libvirt, ``udevGenerateDeviceName()``. Other hosts may name it otherwise.
        """
        return "pci_" + str(self).replace(":", "_").replace(".", "_")

    def __str__(self) -> str:
        """Return ``dddd:bb:ss.f`` in lower case, as the kernel prints it."""
        return f"{self.domain:04x}:{self.bus:02x}:{self.slot:02x}.{self.function:x}"


@dataclass(frozen=True, slots=True, order=True)
class MdevUuid:
    """A mediated device, such as a vGPU, by the UUID that the kernel knows it by.

    Attributes:
        text: Lower case, with dashes.

    Source: the kernel's Documentation/driver-api/vfio-mediated-device.rst.
    """

    text: str

    def __post_init__(self) -> None:
        """Accept the canonical form of a UUID alone, so that one device has one id.

        Raises:
            ValueError: The text is not a UUID in lower case with dashes.
        """
        if str(UUID(self.text)) != self.text:
            raise ValueError(f"{self.text!r} is not a UUID in lower case with dashes")

    @classmethod
    def parse(cls, text: str) -> MdevUuid:
        """Read a UUID of either case, with or without dashes.

        Raises:
            ValueError: The text is no UUID.
        """
        return cls(str(UUID(text)))

    @property
    def default_name(self) -> str:
        """Name of a vGPU that was registered without one."""
        return f"vgpu-{self.text}"

    def __str__(self) -> str:
        """Return the UUID in lower case with dashes, as in sysfs."""
        return self.text


HostDeviceId: TypeAlias = PciAddress | MdevUuid
"""What a domain can be given: a PCI function, or a mediated device on one."""


def is_pci_address(text: str) -> bool:
    """Whether the text is a full PCI address."""
    return _FULL.fullmatch(text) is not None


def parse_host_device_id(text: str) -> HostDeviceId:
    """Read what ``str()`` of an id has written.

    Raises:
        InvalidPciAddressError: It is neither a PCI address nor a UUID.
    """
    try:
        return MdevUuid(text)
    except ValueError:
        return PciAddress.parse(text)


def _explain(text: str) -> str:
    excerpt = text if len(text) <= _EXCERPT else text[:_EXCERPT] + "…"
    if _WITHOUT_DOMAIN.fullmatch(text):
        return (
            f"PCI address {excerpt!r} lacks its PCI domain; "
            f"write 0000:{text.lower()} (lspci -D prints the full form)"
        )
    return (
        f"{excerpt!r} is not a PCI address; write domain:bus:slot.function in hex, "
        "such as 0000:a2:00.0 (slot up to 1f, function up to 7)"
    )
