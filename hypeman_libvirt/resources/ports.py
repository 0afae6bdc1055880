"""What the reports need of the host; ``hypeman_libvirt.host.resources`` implements it."""

from __future__ import annotations

from typing import Protocol

from hypeman_libvirt.resources.model import HostResources, Platform


class ResourceHost(Protocol):
    """The libvirt host as a whole, from libvirt at each call.

    Raises: every method LibvirtUnavailableError, LibvirtDeniedError, LibvirtFailedError.
    """

    def read(self) -> HostResources:
        """Say what the host has, and what active domains took of it."""

    def platform(self) -> Platform:
        """Say what kind of host it is."""
