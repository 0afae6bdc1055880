"""The hub's database: opened, read and written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, TypeAlias

from sqlalchemy import ColumnElement, Connection, Engine, func, make_url, select, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from hypeman_libvirt.devices.errors import RegistryUnavailableError
from hypeman_libvirt.hub.schema import HEAD, metadata
from hypeman_libvirt.registry.errors import RegistryOpenError
from hypeman_libvirt.registry.opening import open_engine

Now: TypeAlias = Callable[[], ColumnElement[datetime]]
"""Now in SQL. Hubs and agents may have any clock; what decides is the database's own."""

MIGRATIONS: Final = Path(__file__).parent / "migrations"
CHANNEL: Final = "hypeman_libvirt_hub"
"""Of NOTIFY."""

_log: Final = logging.getLogger(__name__)


def database_now() -> ColumnElement[datetime]:
    """Return the database's clock, which goes on within a transaction."""
    return func.clock_timestamp()


class Database:
    """Transactions on the hub's database; safe between threads and hubs."""

    def __init__(self, url: str, now: Now = database_now) -> None:
        """Open it, or bring it up to the newest schema.

        Args:
            url: SQLAlchemy URL of PostgreSQL.
            now: Its clock.

        Raises:
            RegistryOpenError: It cannot be used; it was left as it was.
        """
        _refuse_other_databases(url)
        self.now = now
        self.engine: Engine = open_engine(url, migrations=MIGRATIONS, head=HEAD, tables=metadata)

    def ping(self) -> None:
        """Raise if the database does not answer."""
        with self.read() as connection:
            connection.execute(select(1))

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that only reads.

        Raises:
            RegistryUnavailableError: The database does not answer.
        """
        try:
            with self.engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _unavailable(error) from error

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that is committed at its end, unless something was raised.

        Raises:
            RegistryUnavailableError: The database does not answer; what was written is not known.
        """
        try:
            with self.engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _unavailable(error) from error

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def notify(connection: Connection, payload: str) -> None:
    """Wake those that follow events, once this transaction is committed."""
    connection.execute(
        text("SELECT pg_notify(:channel, :payload)"), {"channel": CHANNEL, "payload": payload}
    )


def _refuse_other_databases(url: str) -> None:
    try:
        name = make_url(url).get_backend_name()
    except ArgumentError:
        name = ""
    if name != "postgresql":
        raise RegistryOpenError(
            "a hub keeps its state in PostgreSQL; write its URL, such as "
            "postgresql+psycopg://hypeman@database/fleet"
        )


def _unavailable(error: SQLAlchemyError) -> RegistryUnavailableError:
    _log.warning("the hub's database cannot be used: %s", getattr(error, "orig", None) or error)
    return RegistryUnavailableError(
        "the hub's database does not answer as it should", hint="try again; the log says more"
    )
