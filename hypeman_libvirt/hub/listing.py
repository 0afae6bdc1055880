"""What a hub answers from its database: devices, assignable devices, events."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Row,
    Select,
    String,
    and_,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
)

from hypeman_libvirt.devices.errors import BadRequestError
from hypeman_libvirt.hub import rules
from hypeman_libvirt.hub.database import Database
from hypeman_libvirt.hub.hosts import DEAF_AFTER
from hypeman_libvirt.hub.model import DeviceKey, Found
from hypeman_libvirt.hub.schema import available, claims, devices, events, hosts, units

_DEVICE: Final = devices.c
_AVAILABLE: Final = available.c
_HOST: Final = hosts.c
_UNIT: Final = units.c
_NODE_NAME: Final = re.compile(r"pci_([0-9a-f]{4,8})_([0-9a-f]{2})_([0-9a-f]{2})_([0-7])")
_SIBLINGS: Final = devices.alias("siblings")
IN_UNIT: Final = and_(_UNIT.host == _DEVICE.host, _UNIT.iommu_group == _DEVICE.iommu_group)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which devices a list is of; None for all.

    Attributes:
        host: Name.
        type: ``gpu`` or ``pci``.
        vendor_id: Four hex digits.
        device_id: Likewise.
        profile: Of vGPUs.
        is_free: Whether it could be claimed now.
        tags: All of them.
        hosts: Names that the caller may see.
    """

    host: str | None = None
    type: str | None = None
    vendor_id: str | None = None
    device_id: str | None = None
    profile: str | None = None
    is_free: bool | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    hosts: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class ListPart:
    """A part of a list.

    Attributes:
        bodies: Each a JSON object.
        next: Cursor of the part that follows; None at the end.
    """

    bodies: Sequence[str]
    next: str | None


class Listing:
    """Reads what agents have reported."""

    def __init__(self, database: Database) -> None:
        """Read it here."""
        self._database = database

    def list_devices(self, chosen: Filter, cursor: str | None, limit: int | None) -> ListPart:
        """List registered devices in the order of hosts and of registration.

        Args:
            chosen: Which of them.
            cursor: Where an earlier part ended.
            limit: How many at most.

        Raises:
            BadRequestError: The cursor is none of ours.
        """
        key = (_HOST.name, _DEVICE.created_at, _DEVICE.name)  # of one second, as people would
        named = _DEVICE.name.label("device_name")
        query = (
            select(_DEVICE.body, _HOST.name, _HOST.seen_at, _UNIT.claim, _DEVICE.created_at, named)
            .select_from(devices.join(hosts).outerjoin(units, IN_UNIT))
            .where(*self._conditions(devices, chosen))
            .order_by(*key)
        )
        if chosen.profile is not None:
            query = query.where(_DEVICE.profile == chosen.profile)
        if chosen.tags:
            query = query.where(_DEVICE.tags.contains(dict(chosen.tags)))
        if chosen.is_free is not None:
            free = is_free(self._database.now())
            query = query.where(free if chosen.is_free else ~free)
        rows = self._read(query, key, cursor, limit)
        return ListPart(
            [_describe(row.body, row.name, row.seen_at, row.claim) for row in rows[:limit]],
            _cursor_after(rows, limit, ("name", "created_at", "device_name")),
        )

    def list_available(self, chosen: Filter, cursor: str | None, limit: int | None) -> ListPart:
        """List assignable devices in the order of hosts and addresses; see list_devices."""
        key = (_HOST.name, _AVAILABLE.device)
        query = (
            select(_AVAILABLE.body, _HOST.name, _HOST.seen_at, _AVAILABLE.device)
            .select_from(available.join(hosts))
            .where(*self._conditions(available, chosen))
            .order_by(*key)
        )
        if chosen.is_free is not None:
            free = _AVAILABLE.attached_to.is_(None)
            query = query.where(free if chosen.is_free else ~free)
        rows = self._read(query, key, cursor, limit)
        return ListPart(
            [_describe(row.body, row.name, row.seen_at) for row in rows[:limit]],
            _cursor_after(rows, limit, ("name", "device")),
        )

    def find(self, reference: str, allowed: Collection[str] | None) -> Found:
        """Return the device of a reference: id, name or address, with ``@host`` or without.

        Raises:
            NotFoundError: There is none.
            AmbiguousNameError: Several hosts have it.
            ForbiddenError: The caller may not see its host.
        """
        own, host = rules.split_reference(reference)
        address = _address_in(own)
        named = or_(_DEVICE.id == own, _DEVICE.name == own, _DEVICE.device == address)
        with self._database.read() as connection:
            rows = connection.execute(_found().where(named, *_of_host(host))).all()
        for rank in (lambda row: row.id == own, lambda row: row.name == own, lambda _: True):
            if ranked := [row for row in rows if rank(row)]:
                chosen = rules.choose(reference, [_as_found(row) for row in ranked])
                rules.check_host_allowed(chosen.host_name, allowed)
                return chosen
        return rules.choose(reference, [])

    def describe(self, found: Found) -> str:
        """Return the body of a device."""
        return _describe(found.body, found.host_name, found.seen_at, found.claim)

    def hosts_with(self, address: str, host: str | None) -> Sequence[str]:
        """Return the names of the hosts that have an assignable device at an address."""
        query = select(_HOST.name).select_from(available.join(hosts)).order_by(_HOST.name)
        here = _AVAILABLE.device == address
        with self._database.read() as connection:
            return list(connection.execute(query.where(here, *_of_host(host))).scalars())

    def inventory_of(self, key: str) -> Sequence[Any]:
        """Return name, address and holder of a host's devices, also when the host is gone."""
        columns = (_DEVICE.id, _DEVICE.name, _DEVICE.pci_address, _DEVICE.attached_to)
        claimed = (_UNIT.claim, claims.c.subject)
        query = (
            select(*columns, *claimed)
            .select_from(devices.outerjoin(units, IN_UNIT).outerjoin(claims))
            .where(_DEVICE.host == key)
            .order_by(_DEVICE.name)
        )
        with self._database.read() as connection:
            return connection.execute(query).all()

    def last_event(self) -> int:
        """Return the number of the newest event; 0 without any."""
        query = select(func.coalesce(func.max(events.c.sequence), 0))
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def events_after(self, sequence: int, limit: int) -> Sequence[Any]:
        """Return events in the order in which they became visible, each with its host's name."""
        query = (
            select(events.c.sequence, events.c.type, events.c.body, _HOST.name)
            .select_from(events.join(hosts))
            .where(events.c.sequence > sequence)
            .order_by(events.c.sequence)
            .limit(limit)
        )
        with self._database.read() as connection:
            return connection.execute(query).all()

    def _conditions(self, table: Any, chosen: Filter) -> list[ColumnElement[bool]]:  # noqa: ANN401 - a table
        conditions: list[ColumnElement[bool]] = [_HOST.gone_at.is_(None)]
        given = {name: getattr(chosen, name) for name in ("type", "vendor_id", "device_id")}
        conditions += [table.c[name] == each for name, each in given.items() if each is not None]
        if chosen.host is not None:
            conditions.append(_HOST.name == chosen.host)
        if chosen.hosts is not None:
            conditions.append(_HOST.name.in_(sorted(chosen.hosts)))
        return conditions

    def _read(
        self,
        query: Select[Any],
        key: Sequence[ColumnElement[Any]],
        cursor: str | None,
        limit: int | None,
    ) -> Sequence[Row[Any]]:
        """Run a query from a cursor on; with a limit one row more, which says that more follow."""
        if cursor is not None:
            query = query.where(tuple_(*key) > tuple_(*_read_cursor(cursor, key)))
        if limit is not None:
            query = query.limit(limit + 1)
        with self._database.read() as connection:
            return connection.execute(query).all()


def is_heard(now: ColumnElement[datetime]) -> ColumnElement[bool]:
    """Whether a host's agent can be trusted to do what is asked of it."""
    return and_(
        _HOST.gone_at.is_(None),
        _HOST.drained_at.is_(None),
        _HOST.problem.is_(None),
        _HOST.seen_at > now - DEAF_AFTER,
    )


def is_attached() -> ColumnElement[bool]:
    """Whether a domain has the device or a registered member of its IOMMU group."""
    sibling = _SIBLINGS.c
    in_group = and_(
        sibling.host == _DEVICE.host,
        sibling.iommu_group == _DEVICE.iommu_group,
        sibling.attached_to.is_not(None),
    )
    return exists(select(1).where(in_group).correlate(devices))


def is_free(now: ColumnElement[datetime]) -> ColumnElement[bool]:
    """Whether a device could be claimed; over devices, hosts and units."""
    unclaimed = _UNIT.claim.is_(None)
    return and_(
        _DEVICE.is_fit, unclaimed, _DEVICE.attached_to.is_(None), is_heard(now), ~is_attached()
    )


def _found() -> Select[Any]:
    return (
        select(
            _DEVICE.host,
            _DEVICE.id,
            _DEVICE.name,
            _DEVICE.body,
            _HOST.name.label("host_name"),
            _HOST.seen_at,
            _UNIT.claim,
            claims.c.subject.label("claimed_by"),
        )
        .select_from(devices.join(hosts).outerjoin(units, IN_UNIT).outerjoin(claims))
        .where(_HOST.gone_at.is_(None))
        .order_by(_HOST.name)
    )


def _as_found(row: Row[Any]) -> Found:
    fields = row._asdict()
    return Found(key=DeviceKey(fields.pop("host"), fields.pop("id")), **fields)


def _of_host(name: str | None) -> list[ColumnElement[bool]]:
    there: list[ColumnElement[bool]] = [_HOST.gone_at.is_(None)]
    return there if name is None else [*there, _HOST.name == name]


def _address_in(text: str) -> str:
    """Return the PCI address that a reference may be, also one of a libvirt node device."""
    parts = _NODE_NAME.fullmatch(text)
    return "{}:{}:{}.{}".format(*parts.groups()) if parts else text.lower()


def _describe(body: str, host: str, seen_at: datetime, claim: str | None = None) -> str:
    """Add to an agent's body what the hub knows, without parsing it."""
    own = {"host": host, "seen_at": _moment(seen_at)}
    more = json.dumps(own if claim is None else own | {"claim": claim})
    return f"{body[:-1]}, {more[1:]}"


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cursor_after(rows: Sequence[Row[Any]], limit: int | None, key: Sequence[str]) -> str | None:
    if limit is None or len(rows) <= limit:
        return None
    values = [getattr(rows[limit - 1], name) for name in key]
    written = [each.isoformat() if isinstance(each, datetime) else each for each in values]
    return base64.urlsafe_b64encode(json.dumps(written).encode()).decode().rstrip("=")


def _read_cursor(cursor: str, key: Sequence[ColumnElement[Any]]) -> list[ColumnElement[Any]]:
    """Return the values of a cursor, each of the type of its column.

    Raises:
        BadRequestError: It is none of ours.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        values = json.loads(base64.urlsafe_b64decode(padded))
        return [
            literal(datetime.fromisoformat(value), DateTime(timezone=True))
            if isinstance(column.type, DateTime)
            else literal(str(value), String)
            for value, column in zip(values, key, strict=True)
        ]
    except (ValueError, TypeError, binascii.Error):
        raise BadRequestError(
            f"cursor {cursor[:40]!r} is none", hint="take it from the Link header of an answer"
        ) from None
