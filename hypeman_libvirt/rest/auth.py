"""Who calls, and what they may do: hypeman's bearer tokens."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, Protocol, TypeAlias

import jwt

from hypeman_libvirt.devices.errors import ForbiddenError, UnauthorizedError

Permission: TypeAlias = Literal[
    "device:read", "device:write", "device:delete", "resource:read", "host:write"
]

IDENTIFIED: Final = "identified"
Access: TypeAlias = Permission | Literal["identified"]
"""What an operation asks of a token: a permission, or only that it is valid."""

_ALGORITHMS: Final = ("HS256", "HS384", "HS512")
_log: Final = logging.getLogger(__name__)
_EVERYTHING: Final = "*"
_REMEMBERED: Final = 1024
"""Tokens whose signature is not computed again; each is one client or a few."""
_REGISTRY_CLAIMS: Final = ("repos", "scope", "build_id")
# hypeman does not check the first two; an `aud` that another service needs must not lock the token
# out here. `exp` is checked below, by the clock that this is given.
_NOT_CHECKED: Final[jwt.types.Options] = {
    "verify_aud": False,
    "verify_iat": False,
    "verify_exp": False,
}


@dataclass(frozen=True, slots=True)
class Identity:
    """What a token says of its bearer.

    Attributes:
        subject: The ``sub`` claim; None without one.
        permissions: Those granted, ``*`` for all.
        expires: Until when, in seconds since 1970; None for ever.
        audience: The ``aud`` claim, where it is one word.
        hosts: Names of the hosts of a fleet that it is good for; None for all.
    """

    subject: str | None
    permissions: frozenset[str]
    expires: int | None = None
    audience: str | None = None
    hosts: frozenset[str] | None = None

    def require(self, access: Access) -> None:
        """Let pass who has the permission.

        Raises:
            ForbiddenError: The permission is missing; the message names it.
        """
        if access != IDENTIFIED and self.permissions.isdisjoint({access, _EVERYTHING}):
            raise ForbiddenError(f"the token lacks the permission {access}")


class Auth(Protocol):
    """Turns the ``Authorization`` header into an identity."""

    def identify(self, authorization: str | None) -> Identity:
        """Return the identity of the caller.

        Raises:
            UnauthorizedError: No valid token.
        """


class NoAuth:
    """Every caller may do everything: for a loopback address, or behind another's auth."""

    def identify(self, authorization: str | None) -> Identity:  # noqa: ARG002 - the port's
        """Let every caller pass, without a subject."""
        return Identity(subject=None, permissions=frozenset({_EVERYTHING}))


class BearerAuth:
    """Verifies JSON Web Tokens that were signed with a shared secret.

    Source: RFC 6750, section 2.1; RFC 7519.
    """

    def __init__(
        self,
        secret: str | bytes,
        clock: Callable[[], float] = time.time,
        *,
        require_expiry: bool = False,
    ) -> None:
        """Take the secret; an empty one would verify tokens that anyone can sign.

        Args:
            secret: Signs the tokens.
            clock: Seconds since 1970.
            require_expiry: Refuse tokens without ``exp``; else each subject is warned about once.

        Raises:
            ValueError: The secret is empty.
        """
        if not secret.strip():
            raise ValueError("the JWT secret is empty; set JWT_SECRET to the one that signs tokens")
        self._secret = secret
        self._clock = clock
        self._require_expiry = require_expiry
        self._unlimited: set[str | None] = set()
        self._read_once = lru_cache(_REMEMBERED)(self._read)

    def identify(self, authorization: str | None) -> Identity:
        """Verify ``Bearer <token>`` and read its claims."""
        identity = self._read_once(_token_in(authorization))
        if identity.expires is not None and identity.expires <= self._clock():
            raise _expired()
        return identity

    def _read(self, token: str) -> Identity:
        """Return who the token's bearer is. What is not valid is not remembered."""
        claims = self._verify(token)
        if not claims.keys().isdisjoint(_REGISTRY_CLAIMS):
            raise UnauthorizedError("this is a registry token; it does not open the device API")
        subject, audience = claims.get("sub"), claims.get("aud")
        subject = subject if isinstance(subject, str) else None
        expires = _expiry_in(claims)
        if expires is None:
            self._note_unlimited(subject)
        return Identity(
            subject,
            _permissions_in(claims),
            expires,
            audience if isinstance(audience, str) else None,
            _words_in(claims, "hosts"),
        )

    def _note_unlimited(self, subject: str | None) -> None:
        """Refuse a token that never expires, or warn about its subject the first time."""
        if self._require_expiry:
            raise UnauthorizedError(
                "the token never expires, and such tokens are refused here",
                hint="get one with an exp claim: hypeman-libvirt token makes such",
            )
        if subject not in self._unlimited and len(self._unlimited) < _REMEMBERED:
            self._unlimited.add(subject)
            _log.warning(
                "this subject has a token that never expires; require_expiry refuses such tokens",
                extra={"subject": subject},
            )

    def _verify(self, token: str) -> dict[str, Any]:
        try:
            return jwt.decode(
                token, self._secret, algorithms=list(_ALGORITHMS), options=_NOT_CHECKED
            )
        except (jwt.InvalidTokenError, ValueError):
            raise UnauthorizedError("the token is not valid here") from None


def _expired() -> UnauthorizedError:
    return UnauthorizedError("the token has expired", hint="get a new one")


def _token_in(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise UnauthorizedError("no token", hint="send Authorization: Bearer <token>")
    return token.strip()


def _expiry_in(claims: Mapping[str, Any]) -> int | None:
    """Return until when a token is good, in seconds since 1970; None for ever.

    Raises:
        UnauthorizedError: That is no time.
    """
    try:
        return None if claims.get("exp") is None else int(claims["exp"])
    except (TypeError, ValueError, OverflowError):
        raise UnauthorizedError("the token's exp is no time") from None


def _permissions_in(claims: Mapping[str, object]) -> frozenset[str]:
    """Read the ``permissions`` claim: absent grants all, malformed grants nothing."""
    granted = _words_in(claims, "permissions")
    return frozenset({_EVERYTHING}) if granted is None else granted


def _words_in(claims: Mapping[str, object], name: str) -> frozenset[str] | None:
    """Read a claim that limits a token to words: None where it is absent, none if malformed."""
    if name not in claims:
        return None
    words = claims[name]
    if not isinstance(words, list) or not all(isinstance(item, str) for item in words):
        return frozenset()
    return frozenset(words)
