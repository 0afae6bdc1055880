"""A server that is stopped after the test, and a log that is put back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
import structlog

from hypeman_libvirt.server import logs

if TYPE_CHECKING:
    from tests.server.running import LogLines, RunningServer


@pytest.fixture(params=["granian", "waitress"])
def server(request: pytest.FixtureRequest) -> str:
    """Which server runs; all of them behave alike."""
    return str(request.param)


@pytest.fixture
def start(server: str) -> Iterator[Callable[..., RunningServer]]:
    from tests.server.running import running  # noqa: PLC0415  # after the level was chosen

    with ExitStack() as stack:
        yield lambda app, **options: stack.enter_context(running(app, server=server, **options))


@pytest.fixture
def log_lines() -> Iterator[LogLines]:
    from tests.server.running import LogLines  # noqa: PLC0415

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    lines = LogLines()
    logs.configure(lines)
    yield lines
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
