"""``GET /devices/{reference}`` without a framework: the read that clients make most."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.devices.inventory import Inventory
from hypeman_libvirt.devices.rules import RESERVED_NAMES
from hypeman_libvirt.rest.access_log import AccessLog
from hypeman_libvirt.rest.auth import Auth
from hypeman_libvirt.rest.protected_route import choose_request_id
from hypeman_libvirt.rest.responses import write_devices
from hypeman_libvirt.rest.routes import DEVICE
from hypeman_libvirt.server.answers import SERVER, Headers, HttpAnswer
from hypeman_libvirt.server.asgi import Scope

_PREFIX: Final = b"/devices/"
_JSON: Final = (b"content-type", b"application/json")
_NOT_PLAIN: Final = frozenset(b"/%")


class DeviceReads:
    """Answers reads of one device that succeed; None leaves a request to the app.

    So every refusal, and every request with anything unusual, is the app's, and what is answered
    here is what the app would have answered.
    """

    def __init__(
        self,
        inventory: Inventory,
        auth: Auth,
        log: AccessLog,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read from this inventory.

        Args:
            inventory: Has the devices.
            auth: Knows the callers.
            log: Gets the line of each request that is answered here.
            monotonic: The log's clock.
        """
        self._inventory = inventory
        self._auth = auth
        self._log = log
        self._monotonic = monotonic
        self._written = write_devices()

    def __call__(self, scope: Scope) -> HttpAnswer | None:
        """Answer the GET of an ASGI scope, or leave it to the app."""
        path: bytes = scope["raw_path"]
        reference = path[len(_PREFIX) :]
        if not path.startswith(_PREFIX) or not _NOT_PLAIN.isdisjoint(reference):
            return None
        name = reference.decode("latin-1")
        sent = _headers_once(scope["headers"])
        if name in RESERVED_NAMES or sent is None:
            return None
        started = self._monotonic()
        try:
            identity = self._auth.identify(sent.get(b"authorization"))
            identity.require("device:read")
            body = self._written.write(self._inventory.get(name))
        except DeviceError:
            return None
        request_id = choose_request_id(sent.get(b"x-request-id"))
        record = partial(
            self._log.record,
            started,
            route=DEVICE,
            request_id=request_id,
            client=scope["client"][0],
            subject=identity.subject,
            method="GET",
            path=path.decode("latin-1"),
            status=200,
        )
        length = (b"content-length", b"%d" % len(body))
        headers = [SERVER, _JSON, length, (b"x-request-id", request_id.encode())]
        return HttpAnswer(200, headers, body, close=record)


def _headers_once(headers: Headers) -> dict[bytes, str] | None:
    """Return the headers by name; None if one is there twice, of which the app knows more."""
    sent = {name: value.decode("latin-1") for name, value in headers}
    return sent if len(sent) == len(headers) else None
