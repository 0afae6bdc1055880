"""Reads which host this is."""

from __future__ import annotations

import hmac
import re
from pathlib import Path
from typing import Final
from uuid import UUID

import libvirt

from hypeman_libvirt.devices.errors import LibvirtUnavailableError
from hypeman_libvirt.devices.host_identity import HostIdentity, MachineId
from hypeman_libvirt.host.connection import Connection
from hypeman_libvirt.host.xml.document import parse_xml

_MACHINE_ID: Final = re.compile(r"[0-9a-f]{32}")
_APPLICATION: Final = UUID("f25baf6a-5fee-456a-b0c0-fc1bc607ebd0")
_NO_SMBIOS: Final = frozenset(
    {
        libvirt.VIR_ERR_NO_SUPPORT,
        libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
        libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    }
)
"""The last one: libvirt could not read it, such as without dmidecode."""


class IdentityReader:
    """Reads the identity of a host once for each connection: another one may be another host."""

    def __init__(self, connection: Connection, root: Path | None) -> None:
        """Read over a connection.

        Args:
            connection: To the host.
            root: Directory that holds its ``etc``; None where the service is not on it.
        """
        self._connection = connection
        self._root = root
        self._last: tuple[int, HostIdentity] | None = None

    def read(self) -> HostIdentity:
        """Return the identity; while libvirt is away, that of before."""
        last = self._last
        if last is not None and last[0] == self._connection.losses:
            return last[1]
        try:
            identity = self._ask()
        except LibvirtUnavailableError:
            if last is None:
                raise
            return last[1]
        self._last = self._connection.losses, identity
        return identity

    def _ask(self) -> HostIdentity:
        capabilities = self._connection.read("getCapabilities", lambda c: c.getCapabilities())
        uuid = parse_xml(capabilities).findtext("host/uuid")
        return HostIdentity(
            uri=self._connection.uri,
            uuid=uuid,
            firmware_uuid=self._firmware_uuid() if uuid else None,
            machine=read_machine_id(self._root) if self._root else None,
        )

    def _firmware_uuid(self) -> str | None:
        """Return the UUID in the SMBIOS, empty where it has none; None where it is unknown."""
        xml = self._connection.read("getSysinfo", _read_sysinfo)
        entry = "system/entry[@name='uuid']"
        return (parse_xml(xml).findtext(entry) or "").lower() if xml else None


def read_machine_id(root: Path) -> MachineId | None:
    """Read the machine's id; None where there is none, such as in a container.

    The key is that of ``systemd-id128 machine-id --app-specific``.

    Source: systemd's src/libsystemd/sd-id128/sd-id128.c, sd_id128_get_app_specific().
    """
    try:
        text = (root / "etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    if not _MACHINE_ID.fullmatch(text):
        return None
    digest = hmac.digest(bytes.fromhex(text), _APPLICATION.bytes, "sha256")[:16]
    return MachineId(text, f"machine:{UUID(bytes=digest, version=4)}")


def _read_sysinfo(connection: libvirt.virConnect) -> str | None:
    try:
        return connection.getSysinfo()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in _NO_SMBIOS:
            raise
        return None
