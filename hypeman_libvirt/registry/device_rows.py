"""Rows of a table that belong to a device of a host: they go where their card goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, Table, and_, delete, insert, select, update

from hypeman_libvirt.devices.model import Registration
from hypeman_libvirt.devices.whereabouts import moved_functions


def move_rows(
    connection: Connection, table: Table, placed: Sequence[tuple[Registration, Registration]]
) -> None:
    """Let rows follow the cards of registrations; of another card at the new address none stays.

    Args:
        connection: In a transaction that writes.
        table: Its key is ``host`` and ``device``.
        placed: Each registration as it was, and as it is now; all of one host.
    """
    moves = {str(old): str(new) for old, new in moved_functions(placed).items()}
    if not moves:
        return
    devices = sorted({*moves, *moves.values()})
    here = and_(table.c.host == placed[0][0].host, table.c.device.in_(devices))
    rows = connection.execute(select(table).where(here)).all()
    connection.execute(delete(table).where(here))
    followed = [
        row._asdict() | {"device": moves[row.device]} for row in rows if row.device in moves
    ]
    if followed:
        connection.execute(insert(table), followed)


def adopt_rows(connection: Connection, table: Table, hosts: Mapping[str, str]) -> None:
    """Make the rows of ``old_host`` those of ``new_host``, in place of its own."""
    host, device = table.c.host, table.c.device
    old, new = hosts["old_host"], hosts["new_host"]
    replaced = device.in_(select(device).where(host == old))
    connection.execute(delete(table).where(and_(host == new, replaced)))
    connection.execute(update(table).where(host == old).values(host=new))
