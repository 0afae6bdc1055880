"""Quarantines in SQL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, and_, bindparam, delete, insert, or_, select

from hypeman_libvirt.devices.address import HostDeviceId, parse_host_device_id
from hypeman_libvirt.devices.model import Quarantine
from hypeman_libvirt.registry.schema import quarantines

_TABLE = quarantines.c
_LIST: Final = select(quarantines).where(_TABLE.host == bindparam("of_host"))
_OF_DEVICE: Final = and_(
    _TABLE.host == bindparam("of_host"), _TABLE.device == bindparam("of_device")
)
_BEGUN: Final = select(_TABLE.device).where(
    _OF_DEVICE, or_(_TABLE.after_use.is_(False), bindparam("of_after_use"))
)
_PUT: Final = insert(quarantines)
_END: Final = delete(quarantines).where(_OF_DEVICE)


class SqlQuarantines(ABC):
    """The port ``Quarantines``; who inherits it has the connections."""

    @abstractmethod
    def _read(self, query: Select[Any], **values: str) -> Sequence[Row[Any]]:
        """Run a query."""

    @abstractmethod
    def _write(self) -> AbstractContextManager[Connection]:
        """Begin a transaction that writes."""

    def quarantine(self, host: str, device: HostDeviceId, quarantine: Quarantine) -> None:
        """Store a quarantine; one that has begun already stays as it is."""
        of = {"of_host": host, "of_device": str(device)}
        with self._write() as connection:
            if connection.execute(_BEGUN, of | {"of_after_use": quarantine.after_use}).first():
                return
            connection.execute(_END, of)
            values = {
                "host": host,
                "device": str(device),
                "reason": quarantine.reason,
                "since": quarantine.since,
                "after_use": quarantine.after_use,
            }
            connection.execute(_PUT, values)

    def end_quarantine(self, host: str, device: HostDeviceId) -> bool:
        """End a quarantine; False when there was none."""
        with self._write() as connection:
            of = {"of_host": host, "of_device": str(device)}
            return connection.execute(_END, of).rowcount > 0

    def _read_quarantines(self, _version: object, host: str) -> Mapping[HostDeviceId, Quarantine]:
        return {
            parse_host_device_id(row.device): Quarantine(row.reason, row.since, row.after_use)
            for row in self._read(_LIST, of_host=host)
        }
