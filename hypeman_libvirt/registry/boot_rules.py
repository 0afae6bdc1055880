"""Boot rules in SQL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import (
    ColumnCollection,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.sql.elements import Label

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.model import Registration
from hypeman_libvirt.registry.schema import boot_rules

_TABLE = boot_rules.c
_OF_HOST: Final = _TABLE.host == bindparam("of_host")
_OF_DEVICE: Final = and_(_OF_HOST, _TABLE.device == bindparam("of_device"))
_ONE: Final = select(boot_rules).where(_OF_DEVICE)
_LIST: Final = select(boot_rules).where(_OF_HOST).order_by(_TABLE.device)
_PUT: Final = insert(boot_rules)
_FORGET: Final = delete(boot_rules).where(_OF_DEVICE)
_GIVE_WAY: Final = delete(boot_rules).where(
    and_(
        _TABLE.host == bindparam("new_host"),
        _TABLE.device.in_(select(_TABLE.device).where(_TABLE.host == bindparam("old_host"))),
    )
)
_ADOPT: Final = (
    update(boot_rules)
    .where(_TABLE.host == bindparam("old_host"))
    .values(host=bindparam("new_host"))
)


class SqlBootRules(ABC):
    """The port ``BootRules``; who inherits it has the connections."""

    @abstractmethod
    def _read(self, query: Select[Any], **values: str) -> Sequence[Row[Any]]:
        """Run a query."""

    @abstractmethod
    def _write(self) -> AbstractContextManager[Connection]:
        """Begin a transaction that writes."""

    def put_boot_rule(self, host: str, rule: BootRule) -> None:
        """Store a rule, in place of an earlier one of the address."""
        with self._write() as connection:
            _put(connection, host, rule)

    def boot_rule(self, host: str, device: PciAddress) -> BootRule | None:
        """Return the rule of an address; None without one."""
        rows = self._read(_ONE, of_host=host, of_device=str(device))
        return _rule(rows[0]) if rows else None

    def list_boot_rules(self, host: str) -> Sequence[BootRule]:
        """List the rules, by address."""
        return [_rule(row) for row in self._read(_LIST, of_host=host)]

    def forget_boot_rule(self, host: str, device: PciAddress) -> None:
        """Remove the rule of an address, if there is one."""
        with self._write() as connection:
            connection.execute(_FORGET, {"of_host": host, "of_device": str(device)})


def persistent(registrations: ColumnCollection[str, Any]) -> Label[bool]:
    """Return the column that says whether a boot rule binds a registered device to vfio-pci."""
    rule = select(_TABLE.device).where(
        _TABLE.host == registrations.host,
        _TABLE.device == registrations.device,
        _TABLE.virtual_functions.is_(None),
        registrations.displaced == "",
    )
    return rule.exists().label("persistent")


def follow(connection: Connection, placed: Sequence[tuple[Registration, Registration]]) -> None:
    """Let the rules of cards that have moved, none of which keeps its address, go with them."""
    moved = [(old, new) for old, new in placed if old.pci_address != new.pci_address]
    rules = [(_find(connection, old), new) for old, new in moved]
    for old, _ in moved:
        connection.execute(_FORGET, _key(old.host, old.pci_address))
    for rule, new in rules:
        if rule is not None:
            topology = new.fingerprint.topology if new.fingerprint else None
            there = replace(rule, address=new.pci_address, topology=topology)
            _put(connection, new.host, there)


def adopt_rules(connection: Connection, hosts: Mapping[str, str]) -> None:
    """Make the rules of ``old_host`` those of ``new_host``."""
    connection.execute(_GIVE_WAY, hosts)
    connection.execute(_ADOPT, hosts)


def _find(connection: Connection, registration: Registration) -> BootRule | None:
    row = connection.execute(_ONE, _key(registration.host, registration.pci_address)).first()
    return None if row is None else _rule(row)


def _put(connection: Connection, host: str, rule: BootRule) -> None:
    connection.execute(_FORGET, _key(host, rule.address))
    values = {column.name: getattr(rule, column.name, None) for column in _TABLE}
    connection.execute(_PUT, values | {"host": host, "device": str(rule.address)})


def _key(host: str, device: PciAddress) -> Mapping[str, str]:
    return {"of_host": host, "of_device": str(device)}


def _rule(row: Row[Any]) -> BootRule:
    columns = row._asdict()
    del columns["host"]
    return BootRule(address=PciAddress.parse(columns.pop("device")), **columns)
