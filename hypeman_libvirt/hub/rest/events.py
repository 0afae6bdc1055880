"""``/devices/events`` of a fleet: Server-Sent Events of all hosts."""

from __future__ import annotations

import json

import falcon

from hypeman_libvirt.hub.followers import FleetEvent, FleetFeed
from hypeman_libvirt.hub.rest.callers import hosts_of
from hypeman_libvirt.rest.events import EventStream, begin_stream


class FleetEvents:
    """Streams what happens to devices of all hosts."""

    def __init__(self, feed: FleetFeed) -> None:
        """Listen to this feed."""
        self._feed = feed

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Stream from now on, or from after the event that ``Last-Event-ID`` names."""
        listening = self._feed.listen(
            req.get_header("Last-Event-ID"), req.context.hypeman_expires, hosts_of(req)
        )
        begin_stream(resp, EventStream(listening, encode))


def encode(event: FleetEvent) -> bytes:
    """Write an event; its data is one line of JSON."""
    data = f"{event.body[:-1]}, {json.dumps({'host': event.host})[1:]}"
    return f"id: {event.id}\nevent: {event.type}\ndata: {data}\n\n".encode()
