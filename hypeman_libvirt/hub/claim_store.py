"""Claims, stored: which devices are reserved, taken and given back.

A claim locks units (IOMMU groups) with ``FOR UPDATE SKIP LOCKED``, so that claimers neither wait
for each other nor get the same device. Between two transactions a lease says which hub works on a
claim; when it has run out, any other hub may give its devices back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    case,
    delete,
    func,
    insert,
    literal,
    select,
    tuple_,
    update,
)

from hypeman_libvirt.devices.errors import BusyError, NotFoundError
from hypeman_libvirt.devices.ports import NewId
from hypeman_libvirt.hub.database import Database
from hypeman_libvirt.hub.listing import IN_UNIT, is_attached, is_free, is_heard
from hypeman_libvirt.hub.model import Claim, ClaimedDevice, ClaimSpec, DeviceKey, Pool
from hypeman_libvirt.hub.placement import Spread, spread_of
from hypeman_libvirt.hub.schema import claimed_devices, claims, devices, hosts, units

LEASE: Final = timedelta(seconds=90)
"""Time that a hub has for one step of a claim; longer than an agent's operation may take."""

_CLAIM: Final = claims.c
_CLAIMED: Final = claimed_devices.c
_DEVICE: Final = devices.c
_HOST: Final = hosts.c
_UNIT: Final = units.c


class ClaimStore:
    """Reserves and releases devices."""

    def __init__(self, database: Database, new_id: NewId) -> None:
        """Store claims here.

        Args:
            database: Of the hub.
            new_id: Makes ids of claims.
        """
        self._database = database
        self._new_id = new_id

    def reserve(
        self,
        spec: ClaimSpec,
        *,
        subject: str | None,
        key: str | None,
        within: Pool | None,
        hosts: Collection[str] | None,
        without: Collection[DeviceKey],
    ) -> Claim | None:
        """Reserve devices in one transaction; None if so many are not free and unlocked.

        Args:
            spec: What is asked for.
            subject: Whose claim it will be.
            key: Idempotency key of the request.
            within: Host or NUMA node that all of them must be of.
            hosts: Names of those that may be used; None for all.
            without: Devices that an agent has refused meanwhile.
        """
        claim = self._new_id()
        with self._database.write() as connection:
            rows = connection.execute(self._candidates(spec, within, hosts, without)).all()
            if len(rows) < spec.count:
                return None
            now = self._database.now()
            lifetime = spec.expires_in and timedelta(seconds=spec.expires_in)
            values = {
                "id": claim,
                "subject": subject,
                "state": "reserved",
                "spec": asdict(spec),
                "idempotency_key": key,
                "created_at": now,
                "lease_until": now + LEASE,
                "expires_at": now + lifetime if lifetime else None,
            }
            connection.execute(insert(claims).values(values))
            taken = {(row.host, row.iommu_group) for row in rows}
            connection.execute(
                update(units)
                .where(tuple_(_UNIT.host, _UNIT.iommu_group).in_(sorted(taken)))
                .values(claim=claim)
            )
            reserved = {"claim": claim, "step": "reserved", "was_bound": False}
            connection.execute(insert(claimed_devices), [row._asdict() | reserved for row in rows])
        return self.get(claim)

    def pools(
        self, spec: ClaimSpec, hosts_allowed: Collection[str] | None, without: Collection[DeviceKey]
    ) -> Sequence[Pool]:
        """Count what fits a claim by host or NUMA node, as far as the claim asks for it."""
        now, keys = self._database.now(), _pool_columns(spread_of(spec))
        free, heard, attached = is_free(now), is_heard(now), is_attached()
        claimed = _UNIT.claim.is_not(None)
        holder = case(
            (free, "free"),
            (~_DEVICE.is_fit, "unfit"),
            (claimed, "claimed"),
            (attached, "attached"),
            (~func.coalesce(heard, False), "elsewhere"),
            else_="attached",
        ).label("holder")
        inner = _fitting(select(*keys, holder), spec, hosts_allowed, without).subquery()
        names = [inner.c[column.name] for column in keys]
        counts = [
            func.count().filter(inner.c.holder == name).label(name)
            for name in ("free", "attached", "claimed", "elsewhere", "unfit")
        ]
        query = select(*names, *counts).group_by(*names)
        with self._database.read() as connection:
            return [Pool(**row._asdict()) for row in connection.execute(query)]

    def find_by_key(self, subject: str | None, key: str) -> Claim | None:
        """Return the claim that an earlier request with the same idempotency key made."""
        same = and_(
            func.coalesce(_CLAIM.subject, "") == (subject or ""), _CLAIM.idempotency_key == key
        )
        found = self._list(same)
        return found[0] if found else None

    def get(self, claim: str) -> Claim:
        """Look up a claim.

        Raises:
            NotFoundError: There is none.
        """
        found = self._list(_CLAIM.id == claim)
        if not found:
            raise NotFoundError(
                f"no claim {claim[:64]!r}", hint="GET /devices/claims lists those there are"
            )
        return found[0]

    def list(self) -> Sequence[Claim]:
        """List all claims in the order in which they were made."""
        return self._list()

    def begin_taking(self, claim: str, device: DeviceKey, *, was_bound: bool) -> bool:
        """Write down that an agent is asked for a device next; False if another hub has the claim.

        The undo is so registered before the call.
        """
        with self._database.write() as connection:
            if not self._renew(connection, claim, "reserved"):
                return False
            _set_step(connection, claim, device, step="taking", was_bound=was_bound)
            return True

    def took(self, claim: str, device: DeviceKey) -> None:
        """Write down that the agent has done it."""
        with self._database.write() as connection:
            _set_step(connection, claim, device, step="taken")

    def activate(self, claim: str) -> bool:
        """Give the devices to the claimer; False if another hub has ended the claim meanwhile."""
        with self._database.write() as connection:
            mine = and_(_CLAIM.id == claim, _CLAIM.state == "reserved")
            values = {"state": "active", "lease_until": None}
            return connection.execute(update(claims).where(mine).values(values)).rowcount == 1

    def begin_release(self, claim: str) -> None:
        """Begin to give devices back; whoever does so has a lease.

        Raises:
            BusyError: Another hub works on the claim.
        """
        with self._database.write() as connection:
            if not self._begin_release(connection, _CLAIM.id == claim, idle=True):
                raise BusyError(
                    f"claim {claim} is being worked on", hint="try again when that has come back"
                )

    def abandon(self, claim: str) -> None:
        """Begin to give back what this hub has reserved itself, and nobody else knows of yet."""
        with self._database.write() as connection:
            self._begin_release(connection, _CLAIM.id == claim, idle=False)

    def next_overdue(self) -> Claim | None:
        """Begin to release a claim whose hub has died or whose time has come; None without one.

        Two hubs never get the same.
        """
        now = self._database.now()
        dead = and_(_CLAIM.state != "active", _CLAIM.lease_until < now)
        expired = and_(
            _CLAIM.state == "active",
            _CLAIM.expires_at < now,
            func.coalesce(_CLAIM.lease_until < now, True),
        )
        query = select(_CLAIM.id).where(dead | expired).order_by(_CLAIM.created_at).limit(1)
        with self._database.write() as connection:
            found = connection.execute(query.with_for_update(skip_locked=True)).scalar_one_or_none()
            if found is None:
                return None
            self._begin_release(connection, _CLAIM.id == found, idle=False)
        return self.get(found)

    def keep(self, claim: str, state: str, pause: timedelta) -> None:
        """Leave a claim as it is for now: its devices cannot be given back at this moment."""
        with self._database.write() as connection:
            values = {"state": state, "lease_until": self._database.now() + pause}
            connection.execute(update(claims).where(_CLAIM.id == claim).values(values))

    def gave_back(self, claim: str, device: DeviceKey) -> None:
        """Write down that a device is as it was before the claim."""
        with self._database.write() as connection:
            self._renew(connection, claim, "releasing")
            _set_step(connection, claim, device, step="reserved")

    def finish(self, claim: str) -> None:
        """Delete a claim whose devices are all given back; they are free."""
        with self._database.write() as connection:
            connection.execute(update(units).where(_UNIT.claim == claim).values(claim=None))
            connection.execute(delete(claims).where(_CLAIM.id == claim))

    def _begin_release(
        self, connection: Connection, which: ColumnElement[bool], *, idle: bool
    ) -> bool:
        now = self._database.now()
        if idle:
            which = and_(which, func.coalesce(_CLAIM.lease_until < now, True))
        values = {"state": "releasing", "idempotency_key": None, "lease_until": now + LEASE}
        return connection.execute(update(claims).where(which).values(values)).rowcount == 1

    def _renew(self, connection: Connection, claim: str, state: str) -> bool:
        mine = and_(_CLAIM.id == claim, _CLAIM.state == state)
        values = {"lease_until": self._database.now() + LEASE}
        return connection.execute(update(claims).where(mine).values(values)).rowcount == 1

    def _list(self, *which: ColumnElement[bool]) -> Sequence[Claim]:
        query = select(claims).where(*which).order_by(_CLAIM.created_at, _CLAIM.id)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            members = connection.execute(
                select(claimed_devices, _HOST.name.label("host_name"))
                .select_from(claimed_devices.join(hosts))
                .where(_CLAIMED.claim.in_([row.id for row in rows]))
                .order_by(_HOST.name, _CLAIMED.name)
            ).all()
        by_claim: dict[str, list[ClaimedDevice]] = {row.id: [] for row in rows}
        for member in members:
            by_claim[member.claim].append(_claimed(member))
        return [_claim(row, by_claim[row.id]) for row in rows]

    def _candidates(
        self,
        spec: ClaimSpec,
        within: Pool | None,
        allowed: Collection[str] | None,
        without: Collection[DeviceKey],
    ) -> Select[Any]:
        columns = (_DEVICE.host, _DEVICE.id, _DEVICE.name, _DEVICE.pci_address, _DEVICE.iommu_group)
        query = _fitting(select(*columns), spec, allowed, without)
        query = query.where(is_free(self._database.now()))
        if within is not None and within.host is not None:
            query = query.where(_DEVICE.host == within.host)
        if within is not None and spread_of(spec) == "numa":
            query = query.where(_DEVICE.numa_node.is_not_distinct_from(within.numa_node))
        return query.limit(spec.count).with_for_update(of=units, skip_locked=True)


def _fitting(
    query: Select[Any],
    spec: ClaimSpec,
    allowed: Collection[str] | None,
    without: Collection[DeviceKey],
) -> Select[Any]:
    """Restrict a query to what a claim asks for, free or not."""
    conditions: list[ColumnElement[bool]] = [_HOST.gone_at.is_(None)]
    given = {name: getattr(spec, name) for name in ("type", "vendor_id", "device_id", "profile")}
    conditions += [_DEVICE[name] == value for name, value in given.items() if value is not None]
    if spec.tags:
        conditions.append(_DEVICE.tags.contains(dict(spec.tags)))
    if allowed is not None:
        conditions.append(_HOST.name.in_(sorted(allowed)))
    if without:
        refused = sorted((each.host, each.id) for each in without)
        conditions.append(tuple_(_DEVICE.host, _DEVICE.id).not_in(refused))
    joined = devices.join(hosts).join(units, IN_UNIT)
    return query.select_from(joined).where(*conditions)


def _pool_columns(spread: Spread) -> tuple[ColumnElement[Any], ...]:
    none_host = literal(None).label("host"), literal(None).label("host_name")
    host = _DEVICE.host.label("host"), _HOST.name.label("host_name")
    numa = _DEVICE.numa_node.label("numa_node")
    if spread == "numa":
        return *host, numa
    no_numa = literal(None).label("numa_node")
    return (*(none_host if spread == "fleet" else host), no_numa)


def _set_step(connection: Connection, claim: str, device: DeviceKey, **values: Any) -> None:  # noqa: ANN401 - columns
    this = and_(_CLAIMED.claim == claim, _CLAIMED.host == device.host, _CLAIMED.id == device.id)
    connection.execute(update(claimed_devices).where(this).values(values))


def _claimed(row: Row[Any]) -> ClaimedDevice:
    fields: Mapping[str, Any] = row._asdict()
    return ClaimedDevice(
        key=DeviceKey(fields["host"], fields["id"]),
        **{
            name: fields[name] for name in ("host_name", "name", "pci_address", "step", "was_bound")
        },
    )


def _claim(row: Row[Any], members: Sequence[ClaimedDevice]) -> Claim:
    fields = row._asdict()
    return Claim(
        spec=ClaimSpec(**fields["spec"]),
        devices=tuple(members),
        **{name: fields[name] for name in ("id", "subject", "state", "created_at", "expires_at")},
    )
