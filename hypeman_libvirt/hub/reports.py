"""What agents report, stored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, Field, ValidationError
from sqlalchemy import Connection, Table, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from hypeman_libvirt.devices.errors import (
    BadRequestError,
    DuplicateHostError,
    ForbiddenError,
    ReportGapError,
)
from hypeman_libvirt.devices.model import EventType
from hypeman_libvirt.hub import rules
from hypeman_libvirt.hub.database import Database, notify
from hypeman_libvirt.hub.model import HostRecord, Position
from hypeman_libvirt.hub.protocol import Report, ReportedDevice, ReportedEvent
from hypeman_libvirt.hub.schema import available, devices, events, hosts, units

_HOST: Final = hosts.c
_EVENT_ORDER: Final = text("SELECT pg_advisory_xact_lock(1752785009)")
"""So that events become visible in the order of their numbers."""


class DeviceFacts(BaseModel):
    """The fields of a device that a hub selects by; whatever else it has is handed on."""

    id: str = Field(min_length=1, max_length=64)
    name: str = Field(min_length=1, max_length=128)
    pci_address: str = Field(min_length=1, max_length=36)
    type: str = Field(max_length=16)
    vendor_id: str = Field(max_length=4)
    device_id: str = Field(max_length=4)
    iommu_group: int
    attached_to: str | None
    mdev_uuid: str | None = None
    state: str
    created_at: datetime
    tags: dict[str, str] = {}
    profile: str | None = None
    health: Any = None

    @property
    def is_fit(self) -> bool:
        """Whether it is where it was registered, and not quarantined."""
        status = self.health.get("status") if isinstance(self.health, dict) else self.health
        return self.state == "present" and status in {None, "ok"}


class AvailableFacts(BaseModel):
    """Likewise, of an assignable device."""

    pci_address: str = Field(min_length=1, max_length=36)
    type: str = Field(max_length=16)
    vendor_id: str = Field(max_length=4)
    device_id: str = Field(max_length=4)
    attached_to: str | None = None
    mdev_uuid: str | None = None


class EventFacts(BaseModel):
    """Likewise, of an event."""

    type: EventType | Literal["health"]
    at: datetime


class Reports:
    """Writes down what agents say of their own hosts."""

    def __init__(self, database: Database) -> None:
        """Store it here."""
        self._database = database

    def receive(self, host: HostRecord, report: Report) -> None:
        """Store a report in one transaction; one that was stored already changes nothing.

        Args:
            host: That the agent has proved to be.
            report: Of that host.

        Raises:
            ForbiddenError: It is of another host.
            BadRequestError: A body in it lacks what every device has.
            ReportGapError: A report before it is missing; the agent sends a full one.
            DuplicateHostError: Another machine reports as this host.
        """
        if report.host != host.key:
            raise ForbiddenError(
                f"this key speaks for host {host.name} alone, and the report is of another"
            )
        rows = _rows_of(report)  # before the first lock
        with self._database.write() as connection:
            known = _lock_position(connection, host.key)
            verdict = rules.judge_report(
                known, epoch=report.epoch, sequence=report.sequence, full=report.full
            )
            if verdict == "apply":
                self._apply(connection, report, known, rows)
            elif verdict == "duplicate":
                duplicate = {"duplicate_at": self._database.now()}
                connection.execute(update(hosts).where(_HOST.key == host.key).values(duplicate))
        _refuse(verdict, host)

    def note_device(self, host: str, body: Mapping[str, Any]) -> None:
        """Store what an agent has answered of a device after a change, ahead of its report."""
        row = _device_row(host, ReportedDevice(body=dict(body)))
        del row["numa_node"]  # not in the body
        with self._database.write() as connection:
            _put_units(connection, [row])
            _put(connection, devices, [row])

    def forget_device(self, host: str, device_id: str) -> None:
        """Delete a device that its agent has unregistered, ahead of its report."""
        with self._database.write() as connection:
            _delete(connection, devices, host, "id", [device_id])

    def _apply(self, connection: Connection, report: Report, known: Position, rows: _Rows) -> None:
        position = rules.advance(known, epoch=report.epoch, sequence=report.sequence)
        self._write_host(connection, report, position)
        if report.full:
            _delete_others(connection, devices, report.host, "id", rows.devices)
            _delete_others(connection, available, report.host, "device", rows.available)
        _delete(connection, devices, report.host, "id", report.devices_gone)
        _delete(connection, available, report.host, "device", report.available_gone)
        _put_units(connection, rows.devices)
        _put(connection, devices, rows.devices)
        _put(connection, available, rows.available)
        if rows.events:
            connection.execute(_EVENT_ORDER)
            known_ones = insert(events).on_conflict_do_nothing(constraint="one_event_per_id")
            connection.execute(known_ones, rows.events)
            notify(connection, report.host)

    def _write_host(self, connection: Connection, report: Report, position: Position) -> None:
        now = self._database.now()
        values: dict[str, Any] = {
            "epoch": position.epoch,
            "sequence": position.sequence,
            "seen_at": now,
            "clock_offset": report.sent_at - func.extract("epoch", now),
            "problem": report.problem,
        }
        # What is as before is not written: the row is large, and heartbeats are many.
        if report.sequence == 1 or report.full:
            values |= {"ended_epochs": list(position.ended)}
            values |= {"version": report.version, "url": report.url}
        for name in ("resources", "capabilities"):
            if (value := getattr(report, name)) is not None:
                values[name] = value
        if report.instances is not None:
            values["instances"] = [each.model_dump() for each in report.instances]
        connection.execute(update(hosts).where(_HOST.key == report.host).values(values))


class _Rows:
    """A report as rows of the tables."""

    def __init__(self, report: Report) -> None:
        self.devices = [_device_row(report.host, each) for each in report.devices]
        self.available = [_available_row(report.host, each) for each in report.available]
        self.events = [_event_row(report.host, each) for each in report.events]


def _rows_of(report: Report) -> _Rows:
    try:
        return _Rows(report)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BadRequestError(f"a body of the report: {where}: {first['msg']}") from None


def _device_row(host: str, device: ReportedDevice) -> dict[str, Any]:
    facts = DeviceFacts.model_validate(device.body)
    return {
        "host": host,
        **facts.model_dump(exclude={"state", "health", "mdev_uuid"}),
        "device": facts.mdev_uuid or facts.pci_address,
        "numa_node": device.numa_node,
        "is_fit": facts.is_fit,
        "body": _write(device.body),
    }


def _available_row(host: str, body: Mapping[str, Any]) -> dict[str, Any]:
    facts = AvailableFacts.model_validate(body)
    return {
        "host": host,
        **facts.model_dump(exclude={"pci_address", "mdev_uuid"}),
        "device": facts.mdev_uuid or facts.pci_address,
        "body": _write(body),
    }


def _event_row(host: str, event: ReportedEvent) -> dict[str, Any]:
    facts = EventFacts.model_validate(event.body)
    row = {"host": host, "event": event.id, "type": facts.type, "at": facts.at}
    return row | {"body": _write(event.body)}


def _write(body: Mapping[str, Any]) -> str:
    """Write a body without what a hub itself says of it."""
    own = {"host", "seen_at", "claim"}
    return json.dumps({name: value for name, value in body.items() if name not in own})


def _lock_position(connection: Connection, key: str) -> Position:
    """Read how far a host's reports have come; nobody else applies one meanwhile."""
    query = select(_HOST.epoch, _HOST.sequence, _HOST.ended_epochs).where(_HOST.key == key)
    row = connection.execute(query.with_for_update()).one()
    return Position(row.epoch, row.sequence, tuple(row.ended_epochs))


def _refuse(verdict: rules.Verdict, host: HostRecord) -> None:
    if verdict == "gap":
        raise ReportGapError("a report before this one is missing", hint="send a full one")
    if verdict == "duplicate":
        raise DuplicateHostError(
            f"two machines report as host {host.name}",
            hint="one is a clone of the other: give it a UUID of its own and enrol it",
        )


def _put_units(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    groups = {(row["host"], row["iommu_group"]) for row in rows}
    if groups:
        values = [{"host": host, "iommu_group": group} for host, group in sorted(groups)]
        connection.execute(insert(units).on_conflict_do_nothing(), values)


def _put(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    statement = insert(table)
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    connection.execute(
        statement.on_conflict_do_update(index_elements=keys, set_=changed), list(rows)
    )


def _delete(
    connection: Connection, table: Table, host: str, column: str, gone: Sequence[str]
) -> None:
    if gone:
        these = table.c[column].in_(gone)
        connection.execute(delete(table).where(table.c.host == host, these))


def _delete_others(
    connection: Connection,
    table: Table,
    host: str,
    column: str,
    rows: Sequence[Mapping[str, Any]],
) -> None:
    others = table.c[column].not_in([row[column] for row in rows])
    connection.execute(delete(table).where(table.c.host == host, others))
