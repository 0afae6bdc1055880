"""One PostgreSQL for the whole run, a database for each test.

Only ``-m fleet`` selects these tests: they start a server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypeman_fleet.postgres import NoPostgresError, Postgres, running_postgres

if TYPE_CHECKING:
    from tests.fleet.world import Agent, Fleet


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "fleet" not in re.findall(r"\w+", config.option.markexpr):
        ours = [item for item in items if item.get_closest_marker("fleet")]
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in set(ours)]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real server; skips, and says why, where there is none."""
    with ExitStack() as ended:
        try:
            server = ended.enter_context(running_postgres())
        except NoPostgresError as error:
            pytest.skip(str(error))
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty database."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture
def fleet(database: str, tmp_path: Path) -> Iterator[Fleet]:
    """A hub without hosts."""
    from tests.fleet.world import fleet_on  # noqa: PLC0415  # after the level was chosen

    with fleet_on(database, tmp_path) as fleet:
        yield fleet


@pytest.fixture
def alpha(fleet: Fleet) -> Iterator[Agent]:
    """An agent that is in the fleet."""
    from tests.fleet.world import agent_in  # noqa: PLC0415  # after the level was chosen

    with agent_in(fleet, "alpha") as agent:
        yield agent


@pytest.fixture
def beta(fleet: Fleet) -> Iterator[Agent]:
    """Another one."""
    from tests.fleet.world import agent_in  # noqa: PLC0415  # after the level was chosen

    with agent_in(fleet, "beta") as agent:
        yield agent
