"""The keys of hub and agents: who may speak for a host, and who may call it.

An agent authenticates with a random key of its own, of which the database has the hash. A hub
calls an agent with a token of a minute, signed with a secret of that one agent; the secret is
derived from the hub's own, so that neither the database nor a backup of it opens any host.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from typing import Final

import jwt

from hypeman_libvirt.devices.errors import UnauthorizedError
from hypeman_libvirt.hub.model import HostRecord
from hypeman_libvirt.hub.protocol import ISSUER
from hypeman_libvirt.rest.auth import Auth, BearerAuth, Identity

LIFETIME: Final = 60
"""Seconds that a token of a hub is good for."""
_ALGORITHM: Final = "HS256"


def new_key() -> str:
    """Make a key or one-time token that nobody can guess."""
    return secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """Return what the database knows of a key. It is random, so that no salt is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def agent_secret(hub_secret: str, host: str, salt: str) -> str:
    """Derive the secret that signs the tokens for one agent.

    Args:
        hub_secret: Of all hubs of the fleet.
        host: Key of the agent's host.
        salt: Of its enrolment; with another one, earlier tokens are worth nothing.
    """
    message = f"{ISSUER}\n{host}\n{salt}".encode()
    return hmac.new(hub_secret.encode(), message, hashlib.sha256).hexdigest()


class TokenMaker:
    """Signs the tokens with which a hub calls its agents."""

    def __init__(self, hub_secret: str) -> None:
        """Take the secret of the fleet's hubs; those of agents are derived from it."""
        self._hub_secret = hub_secret

    def secret_for(self, host: str, salt: str) -> str:
        """Return the secret of one agent, for its enrolment."""
        return agent_secret(self._hub_secret, host, salt)

    def sign(self, host: HostRecord, subject: str | None, permissions: Sequence[str]) -> str:
        """Return a token that names the caller and grants no more than this one call needs.

        Its times are those of the agent's clock, which may be an hour off.
        """
        now = int(host.agent_time)
        claims: dict[str, object] = {
            "iss": ISSUER,
            "aud": host.key,
            "iat": now,
            "exp": now + LIFETIME,
            "permissions": list(permissions),
        }
        if subject is not None:
            claims["sub"] = subject
        return jwt.encode(claims, self.secret_for(host.key, host.salt), algorithm=_ALGORITHM)


class HubAuth:
    """What an agent asks of its callers: tokens of its hub, or its own."""

    def __init__(
        self,
        own: Auth,
        secret: Callable[[], str | None],
        host: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        """Ask for these.

        Args:
            own: Knows the service's own callers.
            secret: That of the hub's tokens; None before the enrolment.
            host: Key of the host that tokens must be for.
            clock: Seconds since 1970.
        """
        self._own = own
        self._secret = secret
        self._host = host
        self._clock = clock

    def identify(self, authorization: str | None) -> Identity:
        """Return the identity of the caller.

        Raises:
            UnauthorizedError: No valid token.
        """
        secret = self._secret()
        if secret is None or not _is_of_hub(authorization):
            return self._own.identify(authorization)
        identity = BearerAuth(secret, self._clock).identify(authorization)
        if identity.expires is None or identity.audience != self._host():
            raise UnauthorizedError("the hub's token is not for this host")
        return identity


def _is_of_hub(authorization: str | None) -> bool:
    """Whether a token says that a hub has signed it; whoever verifies it finds out."""
    token = (authorization or "").partition(" ")[2].strip()
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return False
    return claims.get("iss") == ISSUER
