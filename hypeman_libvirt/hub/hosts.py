"""The hosts of a fleet: enrolment, drain, adoption, and those that are gone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Float,
    Row,
    Select,
    and_,
    cast,
    extract,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from hypeman_libvirt.devices.errors import (
    ConflictError,
    DuplicateHostError,
    ForbiddenError,
    NotFoundError,
    UnauthorizedError,
)
from hypeman_libvirt.hub.database import Database
from hypeman_libvirt.hub.model import HostRecord
from hypeman_libvirt.hub.protocol import HEARTBEAT, Enrolment
from hypeman_libvirt.hub.schema import enrolment_tokens, hosts
from hypeman_libvirt.hub.tokens import hash_key, new_key

_HOST: Final = hosts.c
_TOKEN: Final = enrolment_tokens.c
DEAF_AFTER: Final = timedelta(seconds=3 * HEARTBEAT)
"""Time without a report after which an agent is taken for down."""


class Hosts:
    """Which hosts there are, and who may speak for them."""

    def __init__(self, database: Database) -> None:
        """Store them here."""
        self._database = database

    def invite(self, name: str, *, adopts: bool, lifetime: timedelta, by: str | None) -> str:
        """Make a one-time token for a host.

        Args:
            name: That the host will have in the fleet.
            adopts: The host of that name has got another key, and stays the same host.
            lifetime: Of the token.
            by: Subject of who invites.

        Raises:
            NotFoundError: There is no host to adopt.
        """
        if adopts:
            self.get(name)
        token = new_key()
        with self._database.write() as connection:
            values = {
                "token_hash": hash_key(token),
                "name": name,
                "adopts": adopts,
                "created_by": by,
                "expires_at": self._database.now() + lifetime,
            }
            connection.execute(insert(enrolment_tokens).values(values))
        return token

    def enrol(self, enrolment: Enrolment) -> HostRecord:
        """Take an agent in; its token is worth nothing afterwards.

        Raises:
            UnauthorizedError: The token is none, was used or has expired.
            DuplicateHostError: The key is that of another host of the fleet.
            ConflictError: The name is.
        """
        with self._database.write() as connection:
            token = self._redeem(connection, enrolment.token)
            self._refuse_rivals(connection, enrolment, token)
            values = {
                "name": token.name,
                "url": enrolment.url,
                "agent_key_hash": hash_key(enrolment.agent_key),
                "salt": new_key(),
                "version": enrolment.version,
                "enrolled_at": self._database.now(),
                "epoch": None,
                "sequence": 0,
                "gone_at": None,
                "duplicate_at": None,
            }
            if token.adopts:
                named = and_(_HOST.name == token.name, _HOST.gone_at.is_(None))
                connection.execute(update(hosts).where(named).values(key=enrolment.host, **values))
            else:
                row = upsert(hosts).values(key=enrolment.host, **values)
                connection.execute(row.on_conflict_do_update(index_elements=["key"], set_=values))
            found = connection.execute(self._select().where(_HOST.key == enrolment.host)).one()
            return _record(found)

    def authenticate(self, agent_key: str) -> HostRecord:
        """Return the host that the bearer of a key speaks for.

        Raises:
            UnauthorizedError: None.
            ForbiddenError: One that has been removed from the fleet.
        """
        query = self._select().where(_HOST.agent_key_hash == hash_key(agent_key))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise UnauthorizedError("no host has this key", hint="enrol the agent again")
        host = _record(row)
        if host.gone_at is not None:
            raise ForbiddenError(
                f"host {host.name} was removed from the fleet",
                hint="enrol it again to have it back",
            )
        return host

    def list(self, *, with_gone: bool = False) -> Sequence[HostRecord]:
        """List the hosts by name."""
        query = self._select().order_by(_HOST.name, _HOST.key)
        if not with_gone:
            query = query.where(_HOST.gone_at.is_(None))
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(query)]

    def get(self, name: str) -> HostRecord:
        """Look up a host by name or key; one that is gone only by key.

        Raises:
            NotFoundError: There is none.
        """
        by_name = and_(_HOST.name == name, _HOST.gone_at.is_(None))
        query = self._select().where(by_name | (_HOST.key == name))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(_HOST.gone_at.nulls_first())).all()
        if not rows:
            raise NotFoundError(
                f"no host {name[:160]!r} in the fleet", hint="GET /hosts lists those there are"
            )
        return _record(rows[0])

    def find_instance(self, instance: str) -> Sequence[HostRecord]:
        """Return the hosts that have a domain of that UUID, name or instance id."""
        named = [_HOST.instances.contains([{field: instance}]) for field in ("uuid", "name", "id")]
        query = self._select().where(_HOST.gone_at.is_(None), named[0] | named[1] | named[2])
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(query.order_by(_HOST.name))]

    def drain(self, name: str, *, drained: bool) -> HostRecord:
        """Have claims leave the host alone, or not any more; what is claimed stays claimed."""
        host = self.get(name)
        since = func.coalesce(_HOST.drained_at, self._database.now()) if drained else None
        with self._database.write() as connection:
            connection.execute(update(hosts).where(_HOST.key == host.key).values(drained_at=since))
        return self.get(host.key)

    def remove(self, name: str) -> HostRecord:
        """Take a host out of the fleet; its agent is not heard any more.

        What was there, and who had it, stays to be looked up by its key.
        """
        host = self.get(name)
        with self._database.write() as connection:
            values = {"gone_at": func.coalesce(_HOST.gone_at, self._database.now())}
            connection.execute(update(hosts).where(_HOST.key == host.key).values(values))
        return self.get(host.key)

    def reports_of(self, column: str) -> Sequence[dict[str, Any]]:
        """Return what the hosts say of themselves, ``resources`` or ``capabilities``, by name."""
        reported = _HOST[column]
        query = select(reported).where(_HOST.gone_at.is_(None), reported.is_not(None))
        with self._database.read() as connection:
            return list(connection.execute(query.order_by(_HOST.name)).scalars())

    def _redeem(self, connection: Connection, token: str) -> Row[Any]:
        redeemed = connection.execute(
            update(enrolment_tokens)
            .where(
                _TOKEN.token_hash == hash_key(token),
                _TOKEN.used_at.is_(None),
                _TOKEN.expires_at > self._database.now(),
            )
            .values(used_at=self._database.now())
            .returning(_TOKEN.name, _TOKEN.adopts)
        ).one_or_none()
        if redeemed is None:
            raise UnauthorizedError(
                "this one-time token is not valid, was used or has expired",
                hint="POST /hosts makes another one",
            )
        return redeemed

    def _refuse_rivals(self, connection: Connection, enrolment: Enrolment, token: Row[Any]) -> None:
        there = _HOST.gone_at.is_(None)
        same_key = connection.execute(
            select(_HOST.name).where(_HOST.key == enrolment.host, there)
        ).scalar_one_or_none()
        if same_key is not None and not (token.adopts and same_key == token.name):
            raise DuplicateHostError(
                f"host {same_key} of the fleet has the key {enrolment.host} already",
                hint="a cloned image needs a UUID of its own: host_uuid in libvirtd.conf; to enrol "
                f"the very same host again, DELETE /hosts/{same_key} first",
            )
        same_name = connection.execute(
            select(_HOST.key).where(_HOST.name == token.name, there)
        ).scalar_one_or_none()
        if same_name is not None and not token.adopts:
            raise ConflictError(
                f"a host {token.name} is in the fleet already, with the key {same_name}",
                hint=f'if that is what it was before, POST /hosts {{"name": "{token.name}", '
                '"adopt": true} makes a token to adopt it',
            )

    def _select(self) -> Select[Any]:
        now = self._database.now()
        return select(
            _HOST.key,
            _HOST.name,
            _HOST.url,
            _HOST.salt,
            _HOST.version,
            _HOST.seen_at,
            func.coalesce(_HOST.seen_at > now - DEAF_AFTER, False).label("is_heard"),
            (cast(extract("epoch", now), Float) + _HOST.clock_offset).label("agent_time"),
            _HOST.problem,
            _HOST.drained_at,
            _HOST.gone_at,
            _HOST.duplicate_at,
        )


def _record(row: Row[Any]) -> HostRecord:
    return HostRecord(**row._asdict())
