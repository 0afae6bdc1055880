"""What an operator of a hub can set, beside what a service on one host has."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from hypeman_libvirt import defaults
from hypeman_libvirt.settings import Settings, hide_password
from hypeman_libvirt.tls import tls_context


class HubSettings(Settings):
    """Settings of ``hypeman-libvirt hub``."""

    database: str = Field(
        default="postgresql+psycopg:///hypeman_fleet",
        min_length=1,
        description=defaults.DATABASE,
    )
    agents_ca: Path | None = Field(
        default=None,
        description="Certificates of the authority that agents' certificates are checked with. "
        "Default: the system's.",
    )
    certificate: Path | None = Field(
        default=None,
        description="Client certificate that the hub shows to agents, with its chain.",
    )
    certificate_key: Path | None = Field(
        default=None,
        description="Private key of that certificate.",
    )

    @model_validator(mode="after")
    def _key_with_certificate(self) -> Self:
        if (self.certificate is None) != (self.certificate_key is None):
            raise ValueError("certificate and certificate_key belong together; set both")
        return self

    @property
    def shown_database(self) -> str:
        """Where the database is, for people: without a password."""
        return hide_password(self.database)

    def tls(self) -> ssl.SSLContext:
        """Return how the hub speaks TLS to agents.

        Raises:
            SettingsError: A file cannot be read, or is no certificate or key.
        """
        return tls_context(self.agents_ca, self.certificate, self.certificate_key)
