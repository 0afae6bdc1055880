"""All caches of one host."""

from __future__ import annotations

from typing import NamedTuple

from hypeman_libvirt.host.cache.domains import DomainCache
from hypeman_libvirt.host.cache.mdevs import MdevCache
from hypeman_libvirt.host.cache.node_devices import NodeDeviceCache


class Caches(NamedTuple):
    """What libvirt's events invalidate.

    Attributes:
        node_devices: PCI functions.
        mdevs: Mediated devices.
        domains: Domains with their assignments.
    """

    node_devices: NodeDeviceCache
    mdevs: MdevCache
    domains: DomainCache
