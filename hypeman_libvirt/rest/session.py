"""``/ui/session``: signing in to the page, and what the cookie of it is worth."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import falcon

from hypeman_libvirt.devices.errors import BadRequestError
from hypeman_libvirt.rest.auth import Identity
from hypeman_libvirt.rest.responses import answer_with
from hypeman_libvirt.rest.session_schemas import SessionOut

PAGE_HEADER: Final = "X-Hypeman-Page"
"""Which only a script of the same origin can send: any other needs a CORS answer, which is none.

Source: https://fetch.spec.whatwg.org/#http-cors-protocol
"""
_COOKIE: Final = "hypeman-libvirt"
_SECURE_COOKIE: Final = "__Host-hypeman-libvirt"
"""Where the page came over TLS: no other host and no plain HTTP can set it.

Source: RFC 6265bis, section 4.1.3.2.
"""

_LONG_AGO: Final = datetime.fromtimestamp(0, UTC)


def authorization_or_cookie(req: falcon.Request) -> str | None:
    """Return the ``Authorization`` header, else what it would be by the page's cookie.

    The cookie counts only where no other site can have made the browser send it: with the page's
    header, and, where the browser says whose script asks, from the same origin.

    Source: https://www.w3.org/TR/fetch-metadata/
    """
    header = req.get_header("Authorization")
    if header is not None or req.get_header(PAGE_HEADER) is None:
        return header
    if req.get_header("Sec-Fetch-Site") not in {None, "same-origin"}:
        return None
    values = req.get_cookie_values(_name(req)) or []
    return f"Bearer {values[0]}" if len(values) == 1 else None


class PageSession:
    """Says who is signed in, keeps the token in a cookie, and removes it again."""

    def __init__(self, dashboard: str | None) -> None:
        """Link to this dashboard of Grafana, if there is one."""
        self._dashboard = dashboard

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Say what the token allows."""
        identity: Identity = req.context.hypeman_identity
        resp.set_header("Cache-Control", "no-store")
        answer_with(resp, SessionOut.of(identity, self._dashboard))

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Keep the token of this request in a cookie that no script can read.

        Raises:
            BadRequestError: The token is not in the ``Authorization`` header.
        """
        scheme, _, token = (req.get_header("Authorization") or "").strip().partition(" ")
        if scheme.lower() != "bearer" or req.get_header(PAGE_HEADER) is None:
            raise BadRequestError(
                "nothing to keep", hint=f"send Authorization: Bearer <token> and {PAGE_HEADER}: 1"
            )
        identity: Identity = req.context.hypeman_identity
        until = None if identity.expires is None else datetime.fromtimestamp(identity.expires, UTC)
        _set_cookie(req, resp, token.strip(), until)
        resp.status = falcon.HTTP_204

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Have the browser forget the cookie."""
        _set_cookie(req, resp, "", _LONG_AGO)
        resp.status = falcon.HTTP_204


def _set_cookie(
    req: falcon.Request, resp: falcon.Response, value: str, until: datetime | None
) -> None:
    """Set the page's cookie; without a time it lasts as long as the browser runs."""
    resp.set_cookie(
        _name(req),
        value,
        expires=until,
        path="/",
        secure=_is_secure(req),
        http_only=True,
        same_site="Strict",
    )


def _name(req: falcon.Request) -> str:
    return _SECURE_COOKIE if _is_secure(req) else _COOKIE


def _is_secure(req: falcon.Request) -> bool:
    """Whether the browser speaks TLS, to this service or to the proxy before it."""
    return req.forwarded_scheme == "https"
