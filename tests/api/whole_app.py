"""The app with all its paths, as it is served alone."""

from __future__ import annotations

from hypeman_libvirt.metrics import Metrics
from hypeman_libvirt.rest.auth import BearerAuth
from hypeman_libvirt.rest.routes import App, metrics_routes, own_app
from tests.api.client import SECRET
from tests.world import World


def whole_app(world: World) -> App:
    """Return the app on the world's service, open to tokens that the tests sign."""
    metrics = Metrics("0.0.0")
    metrics.watch(world.service, lambda: 0)
    return own_app(world.service, BearerAuth(SECRET), metrics=metrics_routes(metrics.render))
