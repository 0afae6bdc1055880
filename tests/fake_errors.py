"""The errors that libvirt's calls end in: codes, domains and the one exception."""

from __future__ import annotations

from typing import Final

NO_SUPPORT: Final = 3
INTERNAL: Final = 1
XML_ERROR: Final = 27
INVALID_ARG: Final = 8
SYSTEM: Final = 38
NO_DOMAIN: Final = 42
NO_NODE_DEVICE: Final = 53
OPERATION_FAILED: Final = 9
OPERATION_INVALID: Final = 55
CONFIG_UNSUPPORTED: Final = 67
ARGUMENT_UNSUPPORTED: Final = 74
DEVICE_MISSING: Final = 99
FROM_RPC: Final = 7
FROM_QEMU: Final = 10
FROM_DOMAIN: Final = 20
FROM_NODEDEV: Final = 22
FROM_HOSTDEV: Final = 0


class libvirtError(Exception):  # noqa: N801 - libvirt's own name
    """libvirt's one exception; ``err`` is (code, domain, message, level, …) or None."""

    def __init__(self, defmsg: str) -> None:
        super().__init__(defmsg)
        self.err: tuple[object, ...] | None = None

    def get_error_code(self) -> int | None:
        return None if self.err is None else int(str(self.err[0]))

    def get_error_domain(self) -> int | None:
        return None if self.err is None else int(str(self.err[1]))

    def get_error_message(self) -> str | None:
        return None if self.err is None else str(self.err[2])


def failure(code: int, domain: int, message: str) -> libvirtError:
    """Make an error as the binding does: with its ``err`` tuple filled."""
    error = libvirtError(message)
    error.err = (code, domain, message, 2, "%s", message, None, -1, -1)
    return error
