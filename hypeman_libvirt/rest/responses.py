"""Writing answers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final, Generic, TypeVar

import falcon
from pydantic import BaseModel

from hypeman_libvirt.devices.model import AvailableDevice, Device
from hypeman_libvirt.rest.schemas import AvailableDeviceOut, DeviceOut, to_json

D = TypeVar("D", bound=Device | AvailableDevice)

_REMEMBERED: Final = 16_384
"""Bodies of one kind; some 300 bytes each."""


def answer_with(resp: falcon.Response, body: BaseModel | Sequence[BaseModel]) -> None:
    """Answer with JSON, whatever the app's own default is."""
    answer_written(resp, to_json(body))


def answer_written(resp: falcon.Response, body: bytes) -> None:
    """Answer with JSON that is written already."""
    resp.content_type = falcon.MEDIA_JSON
    resp.data = body


class BodyCache(Generic[D]):
    """Bodies of devices, written once for as long as the device is what it was.

    It is if its registration, node device and assignment are the same objects: whoever reads them
    makes new ones when something has changed.
    """

    def __init__(self, name: Callable[[D], Hashable], describe: Callable[[D], BaseModel]) -> None:
        """Begin with none.

        Args:
            name: What a device is known by here.
            describe: Makes the body of a device.
        """
        self._name = name
        self._describe = describe
        self._bodies: dict[Hashable, tuple[D, bytes]] = {}

    def write(self, device: D) -> bytes:
        """Return the body of one device."""
        name = self._name(device)
        known = self._bodies.get(name)
        if known is not None and _is_same(known[0], device):
            return known[1]
        body = to_json(self._describe(device))
        if len(self._bodies) >= _REMEMBERED:
            self._bodies.clear()
        self._bodies[name] = device, body
        return body

    def write_all(self, devices: Iterable[D]) -> bytes:
        """Return an array of bodies."""
        return b"[%b]" % b",".join(map(self.write, devices))


def write_devices() -> BodyCache[Device]:
    """Write registered devices."""
    return BodyCache(lambda each: each.registration.device, DeviceOut.of)


def write_available() -> BodyCache[AvailableDevice]:
    """Write devices that can be passed through."""
    return BodyCache(lambda each: each.node.device, AvailableDeviceOut.of)


def _is_same(one: D, other: D) -> bool:
    return (
        one.node is other.node
        and one.registration is other.registration
        and one.assignment is other.assignment
        and one.quarantine is other.quarantine
        and getattr(one, "verdict", None) == getattr(other, "verdict", None)
    )
