"""libvirt's errors as ours: decided on the code, never on the text."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final, TypeAlias

import libvirt

from hypeman_libvirt.devices.errors import (
    BusyError,
    DeviceError,
    DeviceNotFoundError,
    InstanceNotFoundError,
    InUseError,
    LibvirtDeniedError,
    LibvirtFailedError,
    LibvirtUnavailableError,
    NotAttachedError,
    NotSupportedError,
    VfioUnavailableError,
)

_log = logging.getLogger(__name__)

Meaning: TypeAlias = tuple[type[DeviceError], str]
"""The class of an error and what it says to the client."""

Meanings: TypeAlias = Mapping[int | tuple[int | None, int | None] | None, Meaning]
"""What a code means; with libvirt's domain of the error where the code says too little."""

_LOST: Final = frozenset(
    {
        (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC),
    }
)
"""(code, domain) of a call on a connection that broke, and of an open without a daemon."""

_DENIED: Final[Meaning] = (
    LibvirtDeniedError,
    "libvirt refuses this to the user that the service runs as; look at its log and at polkit",
)
_NO_VFIO: Final[Meaning] = (
    VfioUnavailableError,
    "the host has no working VFIO; switch the IOMMU on (intel_iommu=on or amd_iommu=on)",
)
_NO_SUPPORT: Final[Meaning] = (
    NotSupportedError,
    "libvirt's driver for this hypervisor cannot do this",
)
UNAVAILABLE: Final[Meaning] = (
    LibvirtUnavailableError,
    "libvirt does not answer at this moment; repeat the request",
)
FAILED: Final[Meaning] = (
    LibvirtFailedError,
    "libvirt could not do this; the log of the service says why",
)
READING: Final[Meanings] = {
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: FAILED,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: FAILED,
    libvirt.VIR_ERR_NO_NODE_DEVICE: FAILED,
    libvirt.VIR_ERR_NO_DOMAIN: FAILED,
    libvirt.VIR_ERR_OPERATION_INVALID: FAILED,
    libvirt.VIR_ERR_DEVICE_MISSING: FAILED,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: UNAVAILABLE,
}
"""Codes that mean another error for a change than for a read."""
_MEANINGS: Final[Meanings] = {
    libvirt.VIR_ERR_NO_SUPPORT: _NO_SUPPORT,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: _NO_SUPPORT,
    libvirt.VIR_ERR_INVALID_CONN: UNAVAILABLE,
    libvirt.VIR_ERR_OPERATION_DENIED: _DENIED,
    libvirt.VIR_ERR_ACCESS_DENIED: _DENIED,
    libvirt.VIR_ERR_AUTH_FAILED: _DENIED,
    libvirt.VIR_ERR_AUTH_CANCELLED: _DENIED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: _DENIED,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: _NO_VFIO,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: _NO_VFIO,
    libvirt.VIR_ERR_NO_NODE_DEVICE: (
        DeviceNotFoundError,
        "the device has left this host; GET /devices/available lists those that are there",
    ),
    libvirt.VIR_ERR_NO_DOMAIN: (
        InstanceNotFoundError,
        "the domain is no longer defined on this host; virsh list --all shows those that are",
    ),
    libvirt.VIR_ERR_OPERATION_INVALID: (
        InUseError,
        "a domain uses the device, or was started or stopped meanwhile; look again, then repeat",
    ),
    libvirt.VIR_ERR_DEVICE_MISSING: (
        NotAttachedError,
        "the domain no longer holds the device; there is nothing to detach",
    ),
    libvirt.VIR_ERR_OPERATION_TIMEOUT: (
        BusyError,
        "another operation on the domain is still running; repeat the request later",
    ),
}


def is_lost(error: libvirt.libvirtError) -> bool:
    """Whether the connection is dead. ``isAlive()`` says nothing: it can stay 1 for ever.

    Source: an experiment on libvirt 9.0 and 11.3 with the daemon killed and restarted.
    """
    code, domain = error.get_error_code(), error.get_error_domain()
    return code == libvirt.VIR_ERR_INVALID_CONN or (code, domain) in _LOST


def is_unexplained(error: libvirt.libvirtError) -> bool:
    """Whether libvirt failed without saying why ("the cause is unknown").

    Listing node devices does so now and then while drivers come and go; asked again, it answers.
    Source: an experiment on libvirt 9.0, with 64 clients that bind and unbind virtual functions.
    """
    said = error.get_error_code(), error.get_error_domain()
    return said == (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_NONE)


def is_gone(error: libvirt.libvirtError) -> bool:
    """Whether a node device or domain left between the list and the read: that is normal."""
    gone = {libvirt.VIR_ERR_NO_NODE_DEVICE, libvirt.VIR_ERR_NO_DOMAIN}
    stale = error.get_error_code() == libvirt.VIR_ERR_SYSTEM_ERROR and not is_lost(error)
    return stale or error.get_error_code() in gone


def translate(
    error: libvirt.libvirtError, call: str, meanings: Meanings | None = None
) -> DeviceError:
    """Turn libvirt's error into ours, and put what libvirt said into the log.

    Args:
        error: From the binding.
        call: The binding's method.
        meanings: What codes mean in this call, where that is more than they say by themselves.
    """
    kind, message = UNAVAILABLE if is_lost(error) else _find(error, meanings or {})
    level = logging.INFO if kind is NotSupportedError else logging.WARNING
    code, domain = error.get_error_code(), error.get_error_domain()
    said = error.get_error_message()
    _log.log(level, "libvirt refused %s: code %s, domain %s: %s", call, code, domain, said)
    return kind(message)


def _find(error: libvirt.libvirtError, meanings: Meanings) -> Meaning:
    code, domain = error.get_error_code(), error.get_error_domain()
    known = {**_MEANINGS, **meanings}
    return known.get((code, domain)) or known.get(code, FAILED)
