"""The app with all its paths, as it is served alone."""

from __future__ import annotations

from hypeman_libvirt.rest.auth import BearerAuth
from hypeman_libvirt.rest.routes import App
from tests.api.client import SECRET
from tests.world import World


def whole_app(world: World) -> App:
    """Return the app on the world's service, open to tokens that the tests sign."""
    from hypeman_libvirt.bootstrap import build_app  # noqa: PLC0415  # after the level was chosen

    return build_app(world.settings, world.service, world.metrics, BearerAuth(SECRET))
