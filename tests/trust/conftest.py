"""What the tests of trust share: they print figures at the end of the run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.world import World, world_on

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost

ON_REQUEST = {"model", "trust", "soak"}
Figures = Callable[[str, object], None]
_FIGURES = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless ``-m`` asks for it."""
    left_out = ON_REQUEST - set(re.findall(r"\w+", config.option.markexpr))
    ours = {item for item in items if any(map(item.get_closest_marker, left_out))}
    if ours:
        config.hook.pytest_deselected(items=list(ours))
        items[:] = [item for item in items if item not in ours]


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Note a figure for the summary: ``figures("crash: kills survived", 57)``."""
    noted = request.config.stash.setdefault(_FIGURES, [])
    return lambda name, value: noted.append(f"{name}: {value}")


@pytest.fixture
def world(libvirt_host: LibvirtHost, tmp_path: Path) -> Iterator[World]:
    """A service on ``fake_host``."""
    with world_on(libvirt_host, tmp_path) as world:
        yield world


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the figures."""
    noted = config.stash.get(_FIGURES, [])
    if noted:
        terminalreporter.section("figures")
        for line in sorted(noted):
            terminalreporter.line(line)
