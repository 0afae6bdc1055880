"""Volumes of libvirt's storage pools, which domains may have as disks."""

from __future__ import annotations

import libvirt

from hypeman_libvirt.devices.errors import (
    LibvirtDeniedError,
    LibvirtFailedError,
    NotSupportedError,
)
from hypeman_libvirt.host.connection import Connection


class StorageVolumes:
    """Volumes over one connection."""

    def __init__(self, connection: Connection) -> None:
        """Ask over this connection."""
        self._connection = connection

    def find_path(self, pool: str, volume: str) -> str | None:
        """Return where a volume is on the host; None where libvirt cannot say.

        The pool may not be active, its daemon may be down, or we may not ask.

        Raises:
            LibvirtUnavailableError: libvirt does not answer.
        """
        try:
            return self._connection.read_part(
                "storageVolLookupByName", lambda c: _find_path(c, pool, volume)
            )
        except (LibvirtDeniedError, LibvirtFailedError, NotSupportedError):
            return None


def _find_path(connection: libvirt.virConnect, pool: str, volume: str) -> str:
    return connection.storagePoolLookupByName(pool).storageVolLookupByName(volume).path()
