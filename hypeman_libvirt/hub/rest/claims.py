"""``/devices/claims``."""

from __future__ import annotations

import falcon

from hypeman_libvirt.devices.errors import BadRequestError
from hypeman_libvirt.devices.rules import check_tags
from hypeman_libvirt.hub.claim_store import ClaimStore
from hypeman_libvirt.hub.claiming import Claiming
from hypeman_libvirt.hub.rest.callers import hosts_of
from hypeman_libvirt.hub.rest.schemas import ClaimBody, ClaimOut
from hypeman_libvirt.rest.requests import caller_of, read_body
from hypeman_libvirt.rest.responses import answer_with

_LONGEST_KEY = 255


class Claims:
    """Makes, lists and ends claims."""

    def __init__(self, claiming: Claiming, store: ClaimStore, max_body: int) -> None:
        """Ask these; read bodies of at most so many bytes."""
        self._claiming = claiming
        self._store = store
        self._max_body = max_body

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """List all claims."""
        answer_with(resp, [ClaimOut.of(each) for each in self._store.list()])

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Claim devices, all or none."""
        body = read_body(req, resp, ClaimBody, self._max_body)
        check_tags(body.tags or {})
        claim = self._claiming.claim(
            body.spec(),
            subject=caller_of(req).subject,
            key=_key_of(req),
            hosts=hosts_of(req),
        )
        resp.status = falcon.HTTP_201
        answer_with(resp, ClaimOut.of(claim))

    def on_get_one(self, _req: falcon.Request, resp: falcon.Response, claim: str) -> None:
        """Describe a claim."""
        answer_with(resp, ClaimOut.of(self._store.get(claim)))

    def on_delete_one(self, req: falcon.Request, resp: falcon.Response, claim: str) -> None:
        """Give its devices back."""
        self._claiming.release(claim, caller_of(req).subject)
        resp.status = falcon.HTTP_204


def _key_of(req: falcon.Request) -> str | None:
    """Return the idempotency key.

    Raises:
        BadRequestError: It is too long.
    """
    key = req.get_header("Idempotency-Key")
    if key is not None and len(key) > _LONGEST_KEY:
        raise BadRequestError(f"Idempotency-Key has more than {_LONGEST_KEY} characters")
    return key
