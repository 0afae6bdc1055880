"""Where a packaged service has its files, and the help of its flags: cheap to import."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ETC: Final = Path("/etc/hypeman-libvirt")
"""Where the package has settings and secret."""
DEFAULT_CONFIG: Final = ETC / "config.toml"
HUB_CONFIG: Final = ETC / "hub.toml"
SECRET_FILE: Final = "jwt-secret"  # noqa: S105 - a file's name
"""Name of the secret, in ETC and in systemd's credentials directory."""
SYSTEM_REGISTRY: Final = "/var/lib/libvirt/hypeman/registry.db"
UNIT: Final = "hypeman-libvirt.service"
HELPER_UNIT: Final = "hypeman-libvirt-helper.socket"
HELPER_SOCKET: Final = Path("/run/hypeman-libvirt-helper.sock")
"""Where the root helper listens."""
BASE_URL: Final = "http://127.0.0.1:8080"
"""Where the commands expect a service."""

LISTEN: Final = "Where to serve: host:port, [IPv6 address]:port or unix:/path."
SERVER: Final = "What speaks HTTP. Default: granian where it is installed, else waitress."
TLS_CERT: Final = "PEM file of the certificate to speak TLS with, and of those above it."
TLS_KEY: Final = "PEM file of the certificate's key, without a passphrase."
TLS_CLIENT_CA: Final = (
    "PEM file of authorities: only clients with a certificate of one of them may connect."
)
URI: Final = "libvirt URI of the host. Default: an embedded demo host."
REGISTRY: Final = (
    f"SQLite file or SQLAlchemy URL of the registry. Default: {SYSTEM_REGISTRY}; for a "
    "test or session URI $XDG_STATE_HOME/hypeman-libvirt/registry.db."
)
UI: Final = "on: the page at /ui/. off: there is none, and no cookie of it counts."
DATABASE: Final = "SQLAlchemy URL of the hub's PostgreSQL."
AUTH: Final = "jwt: bearer tokens. off: nobody is asked; local addresses only."
