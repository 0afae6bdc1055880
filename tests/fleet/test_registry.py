"""The registry on PostgreSQL, which the settings offer: tests as on SQLite, and upgrades."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import closing

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from hypeman_libvirt.registry import RegistryOpenError, SqlRegistry
from hypeman_libvirt.registry.opening import MIGRATIONS
from hypeman_libvirt.registry.schema import metadata
from tests.registry import test_placing, test_sql
from tests.registry.registrations import L4

pytestmark = pytest.mark.fleet

_OF_SQLITE = {"test_while_nothing_changes_the_same_registration_is_given"}
"""PostgreSQL does not say cheaply whether anything has changed, so nothing is cached."""

globals().update(
    {
        name: body
        for module in (test_sql, test_placing)
        for name, body in vars(module).items()
        if name.startswith("test_") and name not in _OF_SQLITE
        if set(inspect.signature(body).parameters) == {"registry"}
    }
)


@pytest.fixture
def registry(database: str) -> Iterator[SqlRegistry]:
    """An empty registry on PostgreSQL."""
    with closing(SqlRegistry(database)) as opened:
        yield opened


def test_two_services_share_a_registry(database: str) -> None:
    with closing(SqlRegistry(database)) as one, closing(SqlRegistry(database)) as other:
        one.add(L4)
        assert other.find(L4.host, "l4-gpu") == L4
        assert other.remove(L4.host, L4.id)
        assert one.find(L4.host, "l4-gpu") is None


def test_an_older_registry_is_brought_up_to_date(database: str) -> None:
    engine = create_engine(database)
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, "0001")
    with closing(SqlRegistry(database)) as registry:
        registry.add(L4)
        assert registry.list_all() == [L4]
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_a_database_of_something_else_is_refused(database: str) -> None:
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE theirs (x INTEGER)")
    engine.dispose()
    with pytest.raises(RegistryOpenError, match="'theirs'"):
        SqlRegistry(database)
