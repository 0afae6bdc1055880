"""Certificates that a server speaks TLS with, looked through before it starts."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from hypeman_libvirt.settings import Settings, SettingsError


@dataclass(frozen=True, slots=True)
class Tls:
    """What TLS needs.

    Attributes:
        certificate: PEM file, with those between it and its authority.
        key: PEM file of its key, without a passphrase.
        client_ca: PEM file of authorities; clients must have a certificate of one of them.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


def read_tls(settings: Settings) -> Tls | None:
    """Return what the settings name; None if they name no certificate.

    Raises:
        SettingsError: A file cannot be read, or does not fit the others.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, _refuse_passphrase)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"tls_cert {settings.tls_cert} and tls_key {settings.tls_key} cannot be used: {error}; "
            "both are PEM files, and the key has no passphrase"
        ) from None
    if settings.tls_client_ca is not None:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except OSError as error:
            raise SettingsError(
                f"tls_client_ca {settings.tls_client_ca} cannot be used: {error}; name a PEM file "
                "with the certificates of authorities"
            ) from None
    return Tls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def _refuse_passphrase() -> str:
    raise ValueError("the key has a passphrase")
