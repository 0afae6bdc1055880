"""Serves a service for browsers, whose streams of events end with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.api.whole_app import whole_app
from tests.server.running import RunningServer, running
from tests.world import World


@contextmanager
def serving(world: World) -> Iterator[RunningServer]:
    """Serve the whole app on a port of its own."""
    with running(whole_app(world), threads=20, grace=1.0) as server:
        try:
            yield server
        finally:
            world.service.event_feed.close()
