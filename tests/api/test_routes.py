"""What a server is told of the app's paths."""

from __future__ import annotations

from tests.world import World


def test_the_paths_that_never_wait_are_those_without_a_place(world: World) -> None:
    from hypeman_libvirt.rest.routes import (  # noqa: PLC0415  # after the level was chosen
        NEVER_WAIT,
        about_routes,
        device_routes,
    )

    routes = [*about_routes(world.service), *device_routes(world.service)]
    assert {route.path for route in routes if route.waits is None} == NEVER_WAIT
