"""``/devices/topology`` and ``/devices/history``: the host as a picture, and what happened."""

from __future__ import annotations

import falcon

from hypeman_libvirt.devices.service import DeviceService
from hypeman_libvirt.rest.responses import answer_with
from hypeman_libvirt.rest.topology_schemas import HistoryOut, TopologyOut


class HostPicture:
    """Shows the host, and what happened to its devices."""

    def __init__(self, service: DeviceService) -> None:
        """Ask this service."""
        self._service = service

    def on_get_topology(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Describe every PCI function, IOMMU group and domain."""
        answer_with(resp, TopologyOut.of(self._service.topology.read()))

    def on_get_history(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """List what is remembered."""
        history = self._service.history
        events = self._service.event_feed.past()
        answer_with(resp, HistoryOut.of(history.changes(), events, history.operations()))
