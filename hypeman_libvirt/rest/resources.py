"""``/resources`` and ``/capabilities``: the host as a whole."""

from __future__ import annotations

import falcon

from hypeman_libvirt.resources.reader import ResourceReader
from hypeman_libvirt.rest.resource_schemas import CapabilitiesOut, ResourcesOut
from hypeman_libvirt.rest.responses import answer_with


class HostReports:
    """Says what the host has and what it can do."""

    def __init__(self, reader: ResourceReader) -> None:
        """Ask this reader."""
        self._reader = reader

    def on_get_resources(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Say what there is and what is taken."""
        answer_with(resp, ResourcesOut.of(self._reader.resources()))

    def on_get_capabilities(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Say what can be done."""
        answer_with(resp, CapabilitiesOut.of(self._reader.capabilities()))
