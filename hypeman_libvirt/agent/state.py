"""What a host says of itself, and what of it is new since the report before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from hypeman_libvirt.devices.inventory import Inventory
from hypeman_libvirt.devices.ports import HostView
from hypeman_libvirt.hub.protocol import Instance, ReportedDevice
from hypeman_libvirt.resources.reader import ResourceReader
from hypeman_libvirt.rest.resource_schemas import CapabilitiesOut, ResourcesOut
from hypeman_libvirt.rest.schemas import AvailableDeviceOut, DeviceOut, to_json


@dataclass(frozen=True, slots=True)
class HostState:
    """A host at one moment, as its own API would answer.

    Attributes:
        devices: Registered devices by id.
        available: Assignable devices by PCI address, or UUID of a mediated device.
        instances: All domains.
        resources: As ``GET /resources``.
        capabilities: As ``GET /capabilities``.
    """

    devices: Mapping[str, ReportedDevice] = field(default_factory=dict)
    available: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    instances: Sequence[Instance] = ()
    resources: Mapping[str, Any] = field(default_factory=dict)
    capabilities: Mapping[str, Any] = field(default_factory=dict)


class StateReader:
    """Reads the state of a host from the service on it."""

    def __init__(self, inventory: Inventory, view: HostView, resources: ResourceReader) -> None:
        """Read from these."""
        self._inventory = inventory
        self._view = view
        self._resources = resources

    def read(self, before: HostState | None, *, with_resources: bool) -> HostState:
        """Read the host.

        Args:
            before: Its state at the report before; None for none.
            with_resources: Read what it has altogether, too, which asks more of libvirt; else that
                is as before.

        Raises:
            DeviceError: libvirt or the registry does not answer.
        """
        devices = self._inventory.list_devices({})
        available = self._inventory.list_available()
        bodies = [_as_json(AvailableDeviceOut.of(each)) for each in available]
        resources = before.resources if before else {}
        capabilities = before.capabilities if before else {}
        if with_resources or before is None:
            resources = _as_json(ResourcesOut.of(self._resources.resources()))
            capabilities = _as_json(CapabilitiesOut.of(self._resources.capabilities()))
        return HostState(
            devices={
                each.registration.id: ReportedDevice(
                    body=_as_json(DeviceOut.of(each)),
                    numa_node=each.node.numa_node if each.node else None,
                )
                for each in devices
            },
            available={each.get("mdev_uuid", each["pci_address"]): each for each in bodies},
            instances=tuple(
                Instance(uuid=each.uuid, name=each.name, id=each.instance)
                for each in self._view.list_domains()
            ),
            resources=resources,
            capabilities=capabilities,
        )


def difference(before: HostState | None, after: HostState) -> dict[str, Any]:
    """Return the fields of a report: everything where there was no report before."""
    is_first = before is None
    before = before or HostState()
    changed: dict[str, Any] = {
        "devices": [each for key, each in after.devices.items() if before.devices.get(key) != each],
        "devices_gone": [key for key in before.devices if key not in after.devices],
        "available": [
            each for key, each in after.available.items() if before.available.get(key) != each
        ],
        "available_gone": [key for key in before.available if key not in after.available],
    }
    for name in ("instances", "resources", "capabilities"):
        if is_first or getattr(before, name) != getattr(after, name):
            changed[name] = getattr(after, name)
    return {name: value for name, value in changed.items() if value or name == "instances"}


def _as_json(body: BaseModel) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(to_json(body))
    return document
