"""``/devices/events``: Server-Sent Events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Final, TypeVar

import falcon

from hypeman_libvirt.devices.event_feed import EventFeed
from hypeman_libvirt.devices.model import Event
from hypeman_libvirt.rest.schemas import EventOut, to_json

E = TypeVar("E")

_HELLO: Final = b": listening\n\n"
_KEEP_ALIVE: Final = b": nothing new\n\n"


class Events:
    """Streams what happens to devices."""

    def __init__(self, event_feed: EventFeed) -> None:
        """Listen to this event_feed."""
        self._event_feed = event_feed

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Stream from now on, or from after the event that ``Last-Event-ID`` names."""
        listening = self._event_feed.listen(
            req.get_header("Last-Event-ID"), until=req.context.hypeman_expires
        )
        begin_stream(resp, EventStream(listening, encode))


class EventStream:
    """One listener's events as bytes; the WSGI server closes it when the client is gone.

    It listens from the beginning, so that a refusal is still an answer of its own.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    def __init__(
        self,
        listening: AbstractContextManager[Iterator[E | None]],
        encode: Callable[[E], bytes],
    ) -> None:
        """Begin to listen.

        Args:
            listening: Yields events; None as sign of life.
            encode: Writes an event.
        """
        self._listening = ExitStack()
        self._chunks = _encode_all(self._listening.enter_context(listening), encode)

    def __iter__(self) -> Iterator[bytes]:
        """Return itself."""
        return self

    def __next__(self) -> bytes:
        """Wait for the next event, or for the time of a sign of life."""
        return next(self._chunks)

    def close(self) -> None:
        """Stop listening."""
        self._listening.close()


def begin_stream(resp: falcon.Response, stream: EventStream) -> None:
    """Answer with a stream of events."""
    resp.content_type = "text/event-stream"
    resp.set_header("Cache-Control", "no-cache")
    resp.set_header("X-Accel-Buffering", "no")  # nginx would hold events back
    resp.stream = stream


def _encode_all(events: Iterator[E | None], encode: Callable[[E], bytes]) -> Iterator[bytes]:
    yield _HELLO  # so that the headers leave at once
    for event in events:
        yield _KEEP_ALIVE if event is None else encode(event)


def encode(event: Event) -> bytes:
    """Write an event; its data is one line of JSON."""
    data = to_json(EventOut.of(event))
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event.id.encode(), event.type.encode(), data)
