"""The whole error vocabulary: one family, each class with its ``code``.

Every message is for the client: what is wrong, which value, what to do next. Nothing that a
library said goes into a message; it belongs in the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """One of several reasons behind an error, such as one sibling in the way.

    Attributes:
        code: snake_case, for machines.
        message: For people.
    """

    code: str
    message: str


class DeviceError(Exception):
    """What every use case raises when it cannot do what was asked.

    Attributes:
        code: snake_case, part of the HTTP contract.
        finding: What is wrong, and which value.
        hint: What to do next; None where the finding says it.
        details: Further reasons, such as each sibling that stands in the way.
        retry_after: Seconds after which the same call may succeed; None if it will not by itself.
    """

    code: ClassVar[str] = "internal_error"
    retry_after: ClassVar[int | None] = None

    def __init__(
        self, finding: str, *, hint: str | None = None, details: Sequence[ErrorDetail] = ()
    ) -> None:
        """Store what is wrong, for the answer to the client."""
        super().__init__(finding if hint is None else f"{finding}; {hint}")
        self.finding = finding
        self.hint = hint
        self.details = tuple(details)

    @property
    def message(self) -> str:
        """What is wrong and what to do next, for the client."""
        return str(self)


class BadRequestError(DeviceError):
    """The request does not have the shape that the operation needs."""

    code = "bad_request"


class InvalidPciAddressError(DeviceError):
    """The text is not a full PCI address."""

    code = "invalid_pci_address"


class InvalidNameError(DeviceError):
    """The name breaks the rules for device names."""

    code = "invalid_name"


class InvalidTagsError(DeviceError):
    """A tag breaks the rules for tags."""

    code = "invalid_tags"


class UnauthorizedError(DeviceError):
    """No valid bearer token."""

    code = "unauthorized"


class ForbiddenError(DeviceError):
    """The token does not carry the permission."""

    code = "forbidden"


class NotFoundError(DeviceError):
    """No registered device, group or path of that name."""

    code = "not_found"


class DeviceNotFoundError(DeviceError):
    """The host has no PCI device at the address."""

    code = "device_not_found"


class ProfileNotFoundError(DeviceError):
    """No GPU of the host offers a vGPU profile of that name."""

    code = "profile_not_found"


class InstanceNotFoundError(DeviceError):
    """libvirt has no domain of that UUID, name or instance id."""

    code = "instance_not_found"


class NotAssignableError(DeviceError):
    """The function can never be passed through: a bridge."""

    code = "not_assignable"


class IommuUnavailableError(DeviceError):
    """The device is in no IOMMU group."""

    code = "iommu_unavailable"


class VfioUnavailableError(DeviceError):
    """The host has no working VFIO, or vfio-pci does not take the device."""

    code = "vfio_unavailable"


class ConflictError(DeviceError):
    """The name or the address is registered already."""

    code = "conflict"


class IommuGroupConflictError(DeviceError):
    """Other members of the IOMMU group stand in the way."""

    code = "iommu_group_conflict"


class CriticalDeviceError(DeviceError):
    """The host lives on the device, or it cannot be seen that it does not."""

    code = "critical_device"


class IdentityChangedError(DeviceError):
    """Other hardware than was registered is at the address, or none."""

    code = "identity_changed"


class InUseError(DeviceError):
    """A domain holds the device."""

    code = "in_use"


class QuarantinedError(DeviceError):
    """The device did not come back whole from an earlier use, or does not answer."""

    code = "quarantined"


class NotAttachedError(DeviceError):
    """No domain holds the device."""

    code = "not_attached"


class VirtualFunctionsEnabledError(DeviceError):
    """The device is an SR-IOV physical function whose virtual functions are enabled."""

    code = "sriov_active"


class LinkDownError(DeviceError):
    """The network interface of the physical function is down."""

    code = "link_down"


class DriverNotBoundError(DeviceError):
    """libvirt reported success, yet the device is not on the driver that was asked for."""

    code = "driver_not_bound"


class NoFreeSlotError(DeviceError):
    """The domain has no free PCI slot for a hot-plug."""

    code = "no_free_slot"


class NoCapacityError(DeviceError):
    """So many are not free: no GPU has room for another vGPU, no host so many devices."""

    code = "no_capacity"


class BusyError(DeviceError):
    """Another operation on the device has not come back yet."""

    code = "busy"
    retry_after = 2


class OperationTimeoutError(DeviceError):
    """libvirt did not come back in the time that an operation has; it may still finish."""

    code = "timeout"


class GuestDidNotReleaseError(DeviceError):
    """The guest did not answer the unplug request; the device is still attached."""

    code = "guest_did_not_release"


class NotSupportedError(DeviceError):
    """The hypervisor driver lacks the call."""

    code = "not_supported"


class NoVirtualFunctionsError(NotSupportedError):
    """The device is no physical function whose driver enables virtual ones."""


class HelperFailedError(DeviceError):
    """The root helper, or the kernel that it wrote to, failed."""

    code = "helper_failed"


class LibvirtDeniedError(DeviceError):
    """libvirt refuses the call to this service's user."""

    code = "libvirt_denied"


class LibvirtUnavailableError(DeviceError):
    """libvirt cannot be reached at this moment."""

    code = "libvirt_unavailable"
    retry_after = 2


class LibvirtFailedError(DeviceError):
    """libvirt answered with an error that says nothing more to the client."""

    code = "libvirt_error"


class TooManyListenersError(DeviceError):
    """As many clients as the service allows listen to events already."""

    code = "too_many_listeners"
    retry_after = 10


class OverloadedError(DeviceError):
    """As many requests as the service allows wait for libvirt or the registry already."""

    code = "overloaded"
    retry_after = 1


class RegistryUnavailableError(DeviceError):
    """The registry's database cannot be read or written at this moment."""

    code = "registry_unavailable"
    retry_after = 5


class AmbiguousNameError(DeviceError):
    """Several hosts of the fleet have what is called so."""

    code = "ambiguous_name"


class ClaimedError(DeviceError):
    """The device is in somebody else's claim."""

    code = "claimed"


class DuplicateHostError(DeviceError):
    """Two machines are the same host by their key."""

    code = "duplicate_host"


class ReportGapError(DeviceError):
    """A report of the agent is missing before this one."""

    code = "report_gap"


class HostUnreachableError(DeviceError):
    """The agent of the host gave no answer."""

    code = "host_unreachable"
    retry_after = 5
