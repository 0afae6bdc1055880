"""Who calls a hub, and which hosts their token is good for."""

from __future__ import annotations

from collections.abc import Collection

import falcon

from hypeman_libvirt.devices.errors import ForbiddenError
from hypeman_libvirt.rest.auth import Identity


def hosts_of(req: falcon.Request) -> Collection[str] | None:
    """Return the names of the hosts that the token is good for; None for all."""
    identity: Identity = req.context.hypeman_identity
    return identity.hosts


def require_all_hosts(req: falcon.Request) -> None:
    """Let pass a token that is limited to no host.

    Raises:
        ForbiddenError: It is.
    """
    if hosts_of(req) is not None:
        raise ForbiddenError("the token is good for some hosts alone, and this concerns the fleet")
