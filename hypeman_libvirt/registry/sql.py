"""The registry in SQL: SQLite beside libvirt's own state, PostgreSQL for a fleet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from hypeman_libvirt.devices.address import (
    HostDeviceId,
    PciAddress,
    parse_host_device_id,
)
from hypeman_libvirt.devices.errors import ConflictError, RegistryUnavailableError
from hypeman_libvirt.devices.model import Quarantine, Registration
from hypeman_libvirt.devices.rules import MAX_NAME
from hypeman_libvirt.registry.boot_rules import SqlBootRules, adopt_rules, follow, persistent
from hypeman_libvirt.registry.device_rows import adopt_rows, move_rows
from hypeman_libvirt.registry.errors import reason
from hypeman_libvirt.registry.fingerprints import read_fingerprint, write_fingerprint
from hypeman_libvirt.registry.opening import open_engine, serialize
from hypeman_libvirt.registry.quarantines import SqlQuarantines
from hypeman_libvirt.registry.schema import host_drivers, quarantines, registrations
from hypeman_libvirt.registry.sqlite import LOCK_TIMEOUT, Version, files_of
from hypeman_libvirt.registry.vgpus import read_vgpu, write_vgpu

_TABLE = registrations.c
_log: Final = logging.getLogger(__name__)

# Built once: putting a statement together costs more than running it.
_HERE: Final = _TABLE.host == bindparam("host")
_ALL: Final = select(registrations, persistent(_TABLE))
_ON_HOST: Final = _ALL.where(_HERE)
_BY_REFERENCE: Final = _ON_HOST.where(
    or_(_TABLE.id == bindparam("key"), _TABLE.name == bindparam("key"))
)
_IN_PLACE: Final = _TABLE.displaced == ""
_BY_DEVICE: Final = _ON_HOST.where(_TABLE.device == bindparam("key"), _IN_PLACE)
_IN_ORDER: Final = _ON_HOST.order_by(_TABLE.created_at, _TABLE.id)
_REMEMBERED: Final = 4096
"""Look-ups that are cached while the registry does not change."""
_RIVALS: Final = _ALL.where(
    or_(  # flat, for then SQLite uses an index for each line instead of reading all rows
        _TABLE.id == bindparam("id"),
        and_(_HERE, _TABLE.id == bindparam("name")),
        and_(_HERE, _TABLE.name == bindparam("name")),
        and_(_HERE, _TABLE.name == bindparam("id")),
        and_(_HERE, _TABLE.device == bindparam("device"), _IN_PLACE),
    )
)
"""Whatever a registration could be confused with."""
_ADD: Final = insert(registrations)
_REMOVE: Final = delete(registrations).where(
    and_(_TABLE.host == bindparam("of_host"), _TABLE.id == bindparam("of_id"))
)
_RELABEL: Final = (
    update(registrations)
    .where(and_(_TABLE.host == bindparam("of_host"), _TABLE.id == bindparam("of_id")))
    .values(name=bindparam("new_name"), tags=bindparam("new_tags"))
)
_ADOPT: Final = (
    update(registrations)
    .where(_TABLE.host == bindparam("old_host"))
    .values(host=bindparam("new_host"))
)
_AS_READ: Final = and_(
    _TABLE.host == bindparam("of_host"),
    _TABLE.id == bindparam("of_id"),
    _TABLE.device == bindparam("of_device"),
)
_UNCHANGED: Final = select(_TABLE.id).where(_AS_READ)
_DISPLACE: Final = (
    update(registrations)
    .where(_TABLE.host == bindparam("of_host"), _TABLE.device == bindparam("of_device"))
    .values(displaced=_TABLE.id)
)
_PLACE: Final = (
    update(registrations)
    .where(_AS_READ)
    .values(
        device=bindparam("new_device"),
        fingerprint=bindparam("new_fingerprint", type_=registrations.c.fingerprint.type),
        moved_from=bindparam("new_moved_from"),
        displaced="",
    )
)
_DRIVERS: Final = host_drivers.c
_OF_DEVICE: Final = and_(
    _DRIVERS.host == bindparam("of_host"), _DRIVERS.device == bindparam("of_device")
)
_HOST_DRIVER: Final = select(_DRIVERS.driver).where(_OF_DEVICE)
_NOTE_HOST_DRIVER: Final = insert(host_drivers)
_FORGET_HOST_DRIVER: Final = delete(host_drivers).where(_OF_DEVICE)
_EVERYWHERE: Final = _ALL.order_by(_TABLE.created_at, _TABLE.id)
_HOSTS: Final = select(_TABLE.host).distinct().order_by(_TABLE.host)
_ANY: Final = select(_TABLE.id).limit(1)


class SqlRegistry(SqlBootRules, SqlQuarantines):
    """Names of devices in one table, safe between threads and processes."""

    def __init__(
        self,
        location: str | Path,
        lock_timeout: float = LOCK_TIMEOUT,
        before_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the registry, create it or bring it up to the newest schema.

        No connection is open on return, so that a server may fork afterwards.

        Args:
            location: Path of an SQLite file, or a SQLAlchemy URL.
            lock_timeout: Seconds to wait for another process that writes; SQLite only.
            before_waiting: Is called before the database is asked; see NonBlocking.

        Raises:
            RegistryOpenError: It cannot be used; it was left as it was.
        """
        self._engine = open_engine(str(location), lock_timeout)
        on_sqlite = self._engine.dialect.name == "sqlite"
        self._before_waiting = before_waiting
        self._version = None
        if on_sqlite:
            self._version = Version(self._engine, before_waiting=before_waiting)
        self._files = files_of(self._engine) if on_sqlite else None
        self._cached_version: tuple[int, int] | None = None
        self._first_of = lru_cache(_REMEMBERED)(self._read_first)
        self._list_of = lru_cache(1)(self._read_list)
        self._quarantines_of = lru_cache(1)(self._read_quarantines)

    def close(self) -> None:
        """Close every connection."""
        if self._version is not None:
            self._version.close()
        self._engine.dispose()

    @property
    def is_on_this_machine(self) -> bool:
        """Whether it is an SQLite file."""
        return self._files is not None

    def ping(self) -> None:
        """Raise if the registry does not answer."""
        self._read(_ANY)

    def check_writable(self) -> None:
        """Raise if the registry cannot be written; nothing is."""
        with self._write():
            pass

    def add(self, registration: Registration) -> None:
        """Store a registration; on return it survives a power loss.

        Raises:
            ConflictError: Name, address or id is taken (by another's name or id, too).
        """
        with self._write() as connection:
            values = _values(registration)
            rows = connection.execute(_RIVALS, values).all()
            _refuse_conflict(registration, [_registration(row) for row in rows])
            connection.execute(_ADD, values)

    def find(self, host: str, reference: str) -> Registration | None:
        """Look up by exact id, then by exact name: never both, for no name equals an id."""
        if not (reference.isascii() and reference.isprintable()):
            return None  # no id or name has such characters, and some databases refuse them
        if len(reference) > MAX_NAME:
            return None  # none is so long, and what is looked up stays in memory
        return self._first(_BY_REFERENCE, host, reference)

    def find_by_device(self, host: str, device: HostDeviceId) -> Registration | None:
        """Look up by PCI address, or by the UUID of a mediated device."""
        return self._first(_BY_DEVICE, host, str(device))

    def list_registrations(self, host: str, tags: Mapping[str, str]) -> Sequence[Registration]:
        """List in the order of registration those that carry all the tags."""
        version = self._version and self._version.read()
        listed = self._list_of(version, host) if version else self._read_list(None, host)
        if not tags:
            return listed  # the very same object until something changes
        return [each for each in listed if tags.items() <= each.tags.items()]

    def list_quarantines(self, host: str) -> Mapping[HostDeviceId, Quarantine]:
        """List those of a host, also those that begin after a use."""
        version = self._version and self._version.read()
        return (
            self._quarantines_of(version, host) if version else self._read_quarantines(None, host)
        )

    def list_all(self) -> Sequence[Registration]:
        """List the registrations of every host, in the order of registration."""
        return [_registration(row) for row in self._read(_EVERYWHERE)]

    def list_hosts(self) -> Sequence[str]:
        """List what hosts registrations are keyed by."""
        return [row.host for row in self._read(_HOSTS)]

    def adopt(self, old_host: str, new_host: str) -> int:
        """Make the registrations of one host those of another; all of them or none.

        Returns:
            How many there were.

        Raises:
            ConflictError: The other host has a name or an address already.
        """
        values = {"old_host": old_host, "new_host": new_host}
        try:
            with self._write() as connection:
                for table in (host_drivers, quarantines):
                    adopt_rows(connection, table, values)
                adopt_rules(connection, values)
                return connection.execute(_ADOPT, values).rowcount
        except RegistryUnavailableError as error:
            if isinstance(error.__cause__, IntegrityError):
                raise ConflictError(
                    f"{new_host} has a name or an address of {old_host} registered already",
                    hint="unregister it there first; nothing was changed",
                ) from error
            raise

    def remove(self, host: str, registration_id: str) -> bool:
        """Remove a registration; False when there was none."""
        with self._write() as connection:
            values = {"of_host": host, "of_id": registration_id}
            return connection.execute(_REMOVE, values).rowcount > 0

    def place(self, placed: Sequence[tuple[Registration, Registration]]) -> int:
        """Write down where cards are now and what is known of them; all of it or nothing.

        A registration that still has one of the addresses, and whose card is elsewhere, loses it.
        The host drivers that were noted go with their cards.

        Args:
            placed: Each registration as it was read, and as it is now.

        Returns:
            How many were still as they were read; the others were left as they are.
        """
        with self._write() as connection:
            current = [
                (old, new)
                for old, new in placed
                if connection.execute(_UNCHANGED, _values_read(old)).first()
            ]
            for address in {each.pci_address for pair in current for each in pair}:
                values = {"of_host": current[0][0].host, "of_device": str(address)}
                connection.execute(_DISPLACE, values)
            for old, new in current:
                connection.execute(_PLACE, _values_read(old) | _values_placed(new))
            follow(connection, current)
            for table in (host_drivers, quarantines):
                move_rows(connection, table, current)
            return len(current)

    def relabel(self, registration: Registration) -> bool:
        """Store another name and other tags of a registration; False when there is none.

        Raises:
            ConflictError: The name is another device's, or its id.
        """
        with self._write() as connection:
            rows = connection.execute(_RIVALS, _values(registration)).all()
            known = [_registration(row) for row in rows]
            _refuse_conflict(registration, [each for each in known if each.id != registration.id])
            labels = {"new_name": registration.name, "new_tags": dict(registration.tags)}
            one = {"of_host": registration.host, "of_id": registration.id}
            return connection.execute(_RELABEL, one | labels).rowcount > 0

    def note_host_driver(self, host: str, device: HostDeviceId, driver: str | None) -> None:
        """Note the driver a device had before it is bound to vfio-pci; None for none."""
        values = {"of_host": host, "of_device": str(device)}
        with self._write() as connection:
            connection.execute(_FORGET_HOST_DRIVER, values)
            row = {"host": host, "device": str(device), "driver": driver}
            connection.execute(_NOTE_HOST_DRIVER, row)

    def host_driver(self, host: str, device: HostDeviceId) -> str | None:
        """Return the driver that was noted; None for none, and where nothing was noted."""
        rows = self._read(_HOST_DRIVER, of_host=host, of_device=str(device))
        return rows[0].driver if rows else None

    def forget_host_driver(self, host: str, device: HostDeviceId) -> None:
        """Forget the note; without one nothing happens."""
        with self._write() as connection:
            values = {"of_host": host, "of_device": str(device)}
            connection.execute(_FORGET_HOST_DRIVER, values)

    def _first(self, query: Select[Any], host: str, key: str) -> Registration | None:
        version = self._version.read() if self._version else None
        if version is None:
            return self._read_first(None, query, host, key)
        if version != self._cached_version:
            self._first_of.cache_clear()  # the version in the key excludes a late answer
            self._cached_version = version
        return self._first_of(version, query, host, key)

    def _read_first(
        self, _version: object, query: Select[Any], host: str, key: str
    ) -> Registration | None:
        rows = self._read(query, host=host, key=key)
        return _registration(rows[0]) if rows else None

    def _read_list(self, _version: object, host: str) -> Sequence[Registration]:
        return [_registration(row) for row in self._read(_IN_ORDER, host=host)]

    def _read(self, query: Select[Any], **values: str) -> Sequence[Row[Any]]:
        self._before_waiting()
        try:
            with self._engine.connect() as connection:
                return connection.execute(query, values).all()
        except SQLAlchemyError as error:
            raise _unavailable("read", error) from error

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                serialize(connection)
                yield connection
        except SQLAlchemyError as error:
            raise _unavailable("written", error) from error
        if self._files is not None:
            self._files.check()  # a commit into a file that is gone is none


def _unavailable(what: str, error: SQLAlchemyError) -> RegistryUnavailableError:
    original = getattr(error, "orig", None)
    _log.warning("the registry cannot be %s: %s", what, original or error)
    because = reason(original, "its database does not answer as it should; the log says more")
    return RegistryUnavailableError(f"the registry cannot be {what}: {because}")


def _refuse_conflict(new: Registration, rivals: Sequence[Registration]) -> None:
    for other in rivals:
        if new.name in (other.name, other.id):
            raise ConflictError(
                f"name {new.name!r} is taken by device {other.id} at {other.pci_address}",
                hint="choose another name, or unregister that device first",
            )
    for other in rivals:
        if new.device == other.device:
            raise ConflictError(
                f"{new.device} is registered already as {other.name!r} (id {other.id})",
                hint="use that device, or unregister it first",
            )
    for other in rivals:
        raise ConflictError(
            f"id {new.id} is taken by device {other.name!r} at {other.pci_address}",
            hint="try again",
        )


def _values(registration: Registration) -> dict[str, object]:
    named = {column.name: getattr(registration, column.name, None) for column in _TABLE}
    return named | {
        "device": str(registration.device),
        "tags": dict(registration.tags),
        "fingerprint": write_fingerprint(registration.fingerprint),
        "vgpu": write_vgpu(registration),
        "moved_from": registration.moved_from and str(registration.moved_from),
        "displaced": registration.id if registration.displaced else "",
    }


def _values_read(registration: Registration) -> dict[str, object]:
    return {
        "of_host": registration.host,
        "of_id": registration.id,
        "of_device": str(registration.device),
    }


def _values_placed(registration: Registration) -> dict[str, object]:
    return {
        "new_device": str(registration.device),
        "new_fingerprint": write_fingerprint(registration.fingerprint),
        "new_moved_from": registration.moved_from and str(registration.moved_from),
    }


def _registration(row: Row[Any]) -> Registration:
    columns = row._asdict()
    moved_from = columns.pop("moved_from")
    device = parse_host_device_id(columns.pop("device"))
    pci_address, vgpu = read_vgpu(device, columns.pop("vgpu"))
    return Registration(
        pci_address=pci_address,
        vgpu=vgpu,
        moved_from=PciAddress.parse(moved_from) if moved_from else None,
        fingerprint=read_fingerprint(columns.pop("fingerprint"), columns["id"]),
        displaced=bool(columns.pop("displaced")),
        **columns,
    )
