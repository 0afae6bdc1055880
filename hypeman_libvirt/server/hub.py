"""A hub on one socket, until a signal."""

from __future__ import annotations

import sys
from contextlib import closing

import structlog

from hypeman_libvirt.bootstrap import create_limits
from hypeman_libvirt.hub.bootstrap import build_hub, build_hub_app, open_hub_world
from hypeman_libvirt.hub.settings import HubSettings
from hypeman_libvirt.rest.auth import Auth, BearerAuth, NoAuth
from hypeman_libvirt.server import logs
from hypeman_libvirt.server.listening import listen
from hypeman_libvirt.server.serve import run

_log = structlog.get_logger(__name__)


def serve_hub(settings: HubSettings) -> None:
    """Serve until SIGTERM or SIGINT; a second one stops at once.

    Raises:
        SettingsError: There is no secret, or the address cannot be served on.
        RegistryOpenError: The database cannot be used.
    """
    secret = settings.secret()  # agents' secrets are derived from it, also with auth off
    auth: Auth = NoAuth() if settings.auth == "off" else BearerAuth(secret)
    with closing(logs.LogWriter(sys.stderr)) as log:
        logs.configure(log)
        world = open_hub_world(settings)
        world.metrics.watch_log(lambda: log.dropped)
        with closing(build_hub(settings, world)) as hub:
            listener = listen(settings.listen)
            hub.start()
            app = build_hub_app(settings, world, hub, auth, create_limits(settings))
            about = {"database": settings.shown_database, "auth": settings.auth}
            run(settings, app, listener, hub.announcements.close, about)
        _log.info("stopped")
