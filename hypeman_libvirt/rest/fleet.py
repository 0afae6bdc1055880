"""What only a hub of many hosts answers; a service on one host says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NoReturn

import falcon

from hypeman_libvirt.devices.errors import NotSupportedError
from hypeman_libvirt.rest.auth import Access

FLEET_PATHS: Final[Mapping[str, Mapping[str, Access]]] = {
    "/devices/claims": {"GET": "device:read", "POST": "device:write"},
    "/devices/claims/{claim}": {"GET": "device:read", "DELETE": "device:write"},
    "/hosts": {"GET": "device:read", "POST": "host:write"},
    "/hosts/{name}": {"GET": "device:read", "PATCH": "host:write", "DELETE": "host:write"},
}
"""What each method of a hub's own paths asks of a token."""


class NoFleet:
    """Answers for a hub where there is none."""

    def on_get(self, _req: falcon.Request, _resp: falcon.Response, **_params: str) -> NoReturn:
        """Say that this is one host.

        Raises:
            NotSupportedError: Always.
        """
        raise NotSupportedError(
            "this service is of one host alone", hint="hypeman-libvirt hub serves many as one"
        )

    on_post = on_patch = on_delete = on_get
