"""Opening a registry: create it, bring it up to date, or refuse it and leave it as it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, Engine, MetaData, create_engine, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from hypeman_libvirt.registry import sqlite
from hypeman_libvirt.registry.errors import RegistryOpenError, reason
from hypeman_libvirt.registry.schema import HEAD, metadata

MIGRATIONS: Final = Path(__file__).parent / "migrations"

_SERIALIZE: Final = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": f"SELECT pg_advisory_xact_lock({0x68797065})",  # any number; this reads "hype"
}
"""What makes a transaction the only writing one until it ends."""


@dataclass(frozen=True, slots=True)
class Schema:
    """What the tables of a database are, and how they came to be.

    Attributes:
        migrations: Directory of the Alembic environment.
        head: Its newest revision.
        tables: Those of that revision.
    """

    migrations: Path
    head: str
    tables: MetaData


def open_engine(
    location: str,
    lock_timeout: float = sqlite.LOCK_TIMEOUT,
    migrations: Path = MIGRATIONS,
    head: str = HEAD,
    tables: MetaData = metadata,
) -> Engine:
    """Open a registry whose schema is the newest one; no connection stays open.

    Args:
        location: Path of an SQLite file, or a SQLAlchemy URL.
        lock_timeout: Seconds to wait for another process that writes; SQLite only.
        migrations: Directory of the Alembic environment.
        head: Its newest revision.
        tables: Those of that revision.

    Raises:
        RegistryOpenError: It cannot be used; it was left as it was.
    """
    url = _url(location)
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(_path(url), lock_timeout, Schema(migrations, head, tables))
    engine = _server_engine(url)
    _bring_up_to_date(
        engine, url.render_as_string(), Schema(migrations, head, tables), lambda _: None
    )
    return engine


def serialize(connection: Connection) -> None:
    """Make this transaction the only writing one until it ends."""
    connection.exec_driver_sql(_SERIALIZE[connection.dialect.name])


def _url(location: str) -> URL:
    if "://" not in location:
        return URL.create("sqlite", database=location)
    try:
        return make_url(location)
    except ArgumentError as error:
        raise RegistryOpenError(
            "the registry's URL cannot be read; write a path, or a URL such as "
            "postgresql+psycopg://user@host/database"
        ) from error


def _path(url: URL) -> Path:
    if url.database in (None, "", ":memory:"):
        raise RegistryOpenError("the registry needs a file: a database in memory would forget")
    return Path(str(url.database)).absolute()


def _open_sqlite(path: Path, lock_timeout: float, schema: Schema) -> Engine:
    sqlite.create(path)
    with sqlite.alone(path):
        sqlite.check(path)
        engine = sqlite.engine(path, lock_timeout)
        _bring_up_to_date(
            engine, str(path), schema, lambda revision: sqlite.back_up(path, revision)
        )
        sqlite.use_wal(path)
    return engine


def _server_engine(url: URL) -> Engine:
    if url.get_backend_name() not in _SERIALIZE:
        raise RegistryOpenError(
            f"the registry cannot be kept in {url.get_backend_name()}; "
            f"use one of: {', '.join(_SERIALIZE)}"
        )
    try:
        return create_engine(url, pool_pre_ping=True, max_overflow=-1)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise RegistryOpenError(
            f"the registry's driver {url.drivername} is not installed; "
            "pip install it beside hypeman-libvirt, such as psycopg for postgresql+psycopg"
        ) from error


def _bring_up_to_date(
    engine: Engine, masked: str, schema: Schema, back_up: Callable[[str], None]
) -> None:
    try:
        with engine.begin() as connection:
            serialize(connection)
            revision = _revision(connection, masked) or _create(connection, schema)
            if revision != schema.head:
                _upgrade(connection, masked, revision, schema.migrations, back_up)
    except SQLAlchemyError as error:
        original = getattr(error, "orig", None)
        because = reason(original, f"its database says: {original or error}".splitlines()[0])
        raise RegistryOpenError(f"registry {masked} cannot be used: {because}") from error
    finally:
        engine.dispose()


def _revision(connection: Connection, masked: str) -> str | None:
    """Return the schema's revision; None for a database without any table."""
    tables = inspect(connection).get_table_names()
    if "alembic_version" in tables:
        query = text("SELECT version_num FROM alembic_version")
        return connection.execute(query).scalar_one_or_none()
    if tables:
        raise RegistryOpenError(
            f"{masked} is the database of something else (it has the table {tables[0]!r}); "
            "it was left as it is. Name another place for the registry"
        )
    return None


def _create(connection: Connection, schema: Schema) -> str:
    """Create the tables of the newest schema at once, and return its revision.

    The migrations lead to the same tables in ten times as long.
    """
    schema.tables.create_all(connection)
    connection.exec_driver_sql(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
        "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
    )
    connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": schema.head})
    return schema.head


def _upgrade(
    connection: Connection,
    masked: str,
    revision: str,
    migrations: Path,
    back_up: Callable[[str], None],
) -> None:
    from alembic import command  # noqa: PLC0415  # 0.1 s that only an older schema needs
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    known = {script.revision for script in ScriptDirectory(os.fspath(migrations)).walk_revisions()}
    if revision not in known:
        raise RegistryOpenError(
            f"registry {masked} was written by a newer hypeman-libvirt (schema {revision}); it was "
            "left as it is. Install that version again, or name another place for the registry"
        )
    back_up(revision)
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", os.fspath(migrations).replace("%", "%%"))
    command.upgrade(config, "head")
