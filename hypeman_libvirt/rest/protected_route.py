"""What runs before each responder of ours: request id, token, limit; and errors after it.

It wraps responders instead of adding middleware and error handlers, so that the app of
another owner has its own for its own routes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from typing import Final, TypeAlias

import falcon
from structlog.contextvars import bound_contextvars

from hypeman_libvirt.devices.model import Caller
from hypeman_libvirt.rest.auth import Access, Auth
from hypeman_libvirt.rest.errors import MethodNotAllowedError, answer
from hypeman_libvirt.rest.events import EventStream
from hypeman_libvirt.rest.limits import HeldStream, Limits, Waits
from hypeman_libvirt.rest.requests import is_retry, refuse_encoded_slash

Responder: TypeAlias = Callable[..., None]

Credentials: TypeAlias = Callable[[falcon.Request], str | None]
"""Finds what a request says of who sent it, a bearer token; None where it says nothing."""

REQUEST_ID: Final = "X-Request-Id"
_SANE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


def authorization(req: falcon.Request) -> str | None:
    """Return the ``Authorization`` header."""
    return req.get_header("Authorization")


class Guard:
    """Lets requests in by their token, and answers for what goes wrong behind it."""

    def __init__(
        self, auth: Auth, limits: Limits, credentials: Credentials = authorization
    ) -> None:
        """Ask this auth who calls, and these limits how many may wait.

        Args:
            auth: Knows tokens.
            limits: How many requests may wait.
            credentials: Where tokens are looked for.
        """
        self._auth = auth
        self._limits = limits
        self._credentials = credentials

    def protect(
        self, responder: Responder, access: Access | None, waits: Waits | None
    ) -> Responder:
        """Return the responder behind the guard.

        Args:
            responder: Falcon's.
            access: What a token must grant; None where no token is needed.
            waits: What the responder may wait for; None if it never does.
        """

        @wraps(responder)
        def guarded(req: falcon.Request, resp: falcon.Response, **params: str) -> None:
            with bound_contextvars(request_id=name_request(req, resp)):
                try:
                    refuse_encoded_slash(req)
                    req.env["hypeman.route"] = req.uri_template  # for a log and metrics around it
                    if access is not None:
                        self._let_in(req, access)
                    if waits is None:
                        responder(req, resp, **params)
                    else:
                        self._respond(waits, responder, req, resp, params)
                except Exception as error:  # noqa: BLE001 - the last to see it; it is logged
                    answer(req, resp, error)

        return guarded

    def _respond(
        self,
        waits: Waits,
        responder: Responder,
        req: falcon.Request,
        resp: falcon.Response,
        params: Mapping[str, str],
    ) -> None:
        """Respond while a place is taken; a stream holds it until its end."""
        caller = req.env.get("hypeman.subject") or self._credentials(req)
        self._limits.enter(waits, caller)
        leave = partial(self._limits.leave, waits, caller)
        try:
            responder(req, resp, **params)
        except BaseException:
            leave()
            raise
        if isinstance(resp.stream, EventStream):
            resp.stream = HeldStream(resp.stream, leave)
        else:
            leave()

    def _let_in(self, req: falcon.Request, access: Access) -> None:
        identity = self._auth.identify(self._credentials(req))
        req.env["hypeman.subject"] = identity.subject  # likewise
        identity.require(access)
        req.context.hypeman_caller = Caller(identity.subject, is_retry(req))
        req.context.hypeman_expires = identity.expires
        req.context.hypeman_identity = identity


class ProtectedRoute:
    """One path of ours as Falcon's router sees it: a responder for every method there is.

    A method that the path does not have answers 405 in our words.
    """

    def __init__(
        self,
        guard: Guard,
        resource: object,
        permissions: Mapping[str, Access | None],
        waits: Waits | None,
        suffix: str | None = None,
    ) -> None:
        """Guard the responders of a resource; other methods stay closed.

        Args:
            guard: Stands before each.
            resource: Has the responders.
            permissions: What each method asks of a token.
            waits: What its GET may wait for; other methods are changes. None if nothing waits.
            suffix: Falcon's, of the responders' names.
        """
        ending = f"_{suffix}" if suffix else ""
        closed = guard.protect(_not_allowed(sorted(permissions)), None, None)
        for method in falcon.COMBINED_METHODS:
            setattr(self, f"on_{method.lower()}", closed)
        for method, access in permissions.items():
            name = f"on_{method.lower()}"
            kind = waits if waits is None or method == "GET" else "change"
            setattr(self, name, guard.protect(getattr(resource, name + ending), access, kind))


def _not_allowed(allowed: Sequence[str]) -> Responder:
    def responder(req: falcon.Request, resp: falcon.Response, **_params: str) -> None:
        if req.method != "OPTIONS":
            raise MethodNotAllowedError(req.method, allowed)
        resp.status = falcon.HTTP_204
        resp.set_header("Allow", ", ".join(allowed))

    return responder


def name_request(req: falcon.Request, resp: falcon.Response) -> str:
    """Give the answer its ``X-Request-Id``: one that is set already, the client's or a new one."""
    set_already = resp.get_header(REQUEST_ID)
    if set_already:
        return set_already
    request_id = choose_request_id(req.get_header(REQUEST_ID))
    resp.set_header(REQUEST_ID, request_id)
    return request_id


def choose_request_id(sent: str | None) -> str:
    """Return the client's id if it is one, else one that no other request has.

    It is no secret, and is made without a UUID's system call.
    """
    if sent is not None and _SANE_ID.fullmatch(sent):
        return sent
    return f"{random.getrandbits(128):032x}"  # nosec B311
