"""hypeman's PCI-passthrough device API for hosts that run libvirt."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hypeman_libvirt.version import __version__

if TYPE_CHECKING:
    from hypeman_libvirt.bootstrap import create_app, create_service, init_app
    from hypeman_libvirt.settings import Settings

__all__ = ["Settings", "__version__", "create_app", "create_service", "init_app"]

_HOMES = {
    "Settings": "hypeman_libvirt.settings",
    "create_app": "hypeman_libvirt.bootstrap",
    "create_service": "hypeman_libvirt.bootstrap",
    "init_app": "hypeman_libvirt.bootstrap",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # whatever it is in its module
    """Import on first use, so that the rules can be imported where no libvirt is."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
