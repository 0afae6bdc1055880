"""``/iommu-groups``: which devices go to a guest together."""

from __future__ import annotations

import falcon

from hypeman_libvirt.devices.inventory import Inventory
from hypeman_libvirt.rest.requests import read_group_number
from hypeman_libvirt.rest.responses import answer_with
from hypeman_libvirt.rest.schemas import IommuGroupOut


class IommuGroups:
    """Lists the host's IOMMU groups."""

    def __init__(self, inventory: Inventory) -> None:
        """Read from this inventory."""
        self._inventory = inventory

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """List all groups by number."""
        groups = self._inventory.list_groups()
        answer_with(resp, [IommuGroupOut.of(group) for group in groups])

    def on_get_one(self, _req: falcon.Request, resp: falcon.Response, number: str) -> None:
        """Describe one group."""
        group = self._inventory.get_group(read_group_number(number))
        answer_with(resp, IommuGroupOut.of(group))
