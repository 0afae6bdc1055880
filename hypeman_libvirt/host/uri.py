"""Which libvirt URIs can never work, whether the daemon runs or not."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

import libvirt

from hypeman_libvirt.host.dialing import Dialer
from hypeman_libvirt.host.errors import is_lost
from hypeman_libvirt.host.event_loop import EVENT_LOOP

_PATIENCE: Final = 3.0
"""Seconds; a libvirtd that hangs is down, and says nothing about the URI."""
_QEMU_PATHS: Final = ("/system", "/session", "/embed")
"""Source: libvirt's qemuConnectURIProbe in src/qemu/qemu_driver.c."""
_DRIVERS: Final = (
    "qemu",
    "test",
    "xen",
    "lxc",
    "ch",
    "bhyve",
    "vbox",
    "vz",
    "openvz",
    "parallels",
    "esx",
    "gsx",
    "vpx",
    "hyperv",
    "vmwareplayer",
    "vmwarews",
    "vmwarefusion",
)
"""What a daemon that is down cannot say of a scheme.

Source: https://libvirt.org/uri.html and https://libvirt.org/drivers.html
"""
_NEVER: Final = frozenset(
    {libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_XML_ERROR}
)
"""No such driver; a transport or a path that is none; a host's file that is no XML.

Source: an experiment on libvirt 9.0. A wrong path of the QEMU driver is an internal error (1), as
much else is, so that one is decided on the path. A daemon that is down is 38 of VIR_FROM_RPC.
"""


class WrongUriError(Exception):
    """No libvirt will ever answer at the URI.

    Attributes:
        message: For the operator: which URI, what libvirt proposes.
    """

    def __init__(self, message: str) -> None:
        """Store the message for the operator."""
        super().__init__(message)
        self.message = message


def check_uri(uri: str, dial: Callable[[str], libvirt.virConnect] = libvirt.open) -> None:
    """Let pass what libvirt answers at, or may answer at once its daemon runs.

    Args:
        uri: https://libvirt.org/uri.html
        dial: Opens a connection.

    Raises:
        WrongUriError: It can never work.
    """
    EVENT_LOOP.start()
    dialer = Dialer(lambda: dial(uri))
    try:
        connection = dialer.open(_PATIENCE)
    except TimeoutError:
        dialer.abandon()
        said = None
    except libvirt.libvirtError as error:
        said = None if is_lost(error) else error
    else:
        with suppress(libvirt.libvirtError):
            connection.close()
        return
    proposal = _proposal(uri)
    if proposal is not None or (said is not None and said.get_error_code() in _NEVER):
        reason = f"libvirt says: {said.get_error_message()}" if said else f"try {proposal}"
        raise WrongUriError(f"no libvirt will ever answer at {uri}: {reason}")


def _proposal(uri: str) -> str | None:
    """Return what was meant by a driver, or a path of its QEMU driver, that libvirt lacks."""
    parts = urlsplit(uri)
    driver, _, transport = parts.scheme.partition("+")
    if driver not in _DRIVERS:
        meant = difflib.get_close_matches(driver, _DRIVERS, 1)
        scheme = "+".join([meant[0], transport] if meant and transport else meant)
        return f"{scheme}:{uri.partition(':')[2]}" if meant else "qemu:///system"
    if driver != "qemu" or parts.path in _QEMU_PATHS:
        return None
    is_host = parts.netloc and f"/{parts.netloc}" not in _QEMU_PATHS
    given = parts.path.strip("/") or parts.netloc
    path = (difflib.get_close_matches(f"/{given}", _QEMU_PATHS, 1) or _QEMU_PATHS)[0]
    return f"{parts.scheme}://{parts.netloc if is_host else ''}{path}"
