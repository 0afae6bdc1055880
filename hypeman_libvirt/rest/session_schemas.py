"""Body of ``/ui/session``."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel

from hypeman_libvirt.rest.auth import Identity


class SessionOut(BaseModel):
    """Who is signed in, what the token allows, and where the dashboard is."""

    subject: str | None
    permissions: list[str]
    expires: datetime | None
    dashboard: str | None

    @classmethod
    def of(cls, identity: Identity, dashboard: str | None) -> SessionOut:
        """Describe an identity."""
        expires = identity.expires
        return cls(
            subject=identity.subject,
            permissions=sorted(identity.permissions),
            expires=None if expires is None else datetime.fromtimestamp(expires, UTC),
            dashboard=dashboard,
        )
