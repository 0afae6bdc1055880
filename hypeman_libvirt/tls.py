"""TLS between hubs and agents."""

from __future__ import annotations

import ssl
from pathlib import Path

from hypeman_libvirt.settings import SettingsError


def tls_context(
    authority: Path | None, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """Return a client's TLS context.

    Args:
        authority: Whom it trusts; None for the system's.
        certificate: Its own; None without.
        key: Of that certificate.

    Raises:
        SettingsError: A file cannot be read, or is no certificate or key.
    """
    try:
        context = ssl.create_default_context(cafile=authority)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        named = ", ".join(str(each) for each in (authority, certificate, key) if each)
        raise SettingsError(f"a certificate or key cannot be used ({named}): {error}") from None
    return context
