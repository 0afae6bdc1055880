"""The app with all its paths, as it is served alone."""

from __future__ import annotations

from typing import Literal
from wsgiref.types import WSGIApplication

from hypeman_libvirt.rest.auth import Auth, BearerAuth
from tests.api.client import SECRET
from tests.world import World


def whole_app(
    world: World,
    auth: Auth | None = None,
    metrics: Literal["token", "open"] = "token",
    ui: Literal["on", "off"] = "on",
) -> WSGIApplication:
    """Return the app on the world's service, open to tokens that the tests sign."""
    from hypeman_libvirt.bootstrap import build_app  # noqa: PLC0415  # after the level was chosen

    settings = world.settings.model_copy(update={"metrics": metrics, "ui": ui})
    return build_app(settings, world.base, world.service, auth or BearerAuth(SECRET))
