"""Counts what there is and what is taken; GPUs as slots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from hypeman_libvirt.devices import rules
from hypeman_libvirt.devices.domain import Domain
from hypeman_libvirt.devices.inventory import Inventory
from hypeman_libvirt.devices.model import AvailableDevice
from hypeman_libvirt.devices.node_device import NodeDevice
from hypeman_libvirt.devices.ports import HostView
from hypeman_libvirt.devices.vgpu import framebuffer_of
from hypeman_libvirt.resources.model import Guest, Platform, StoragePool
from hypeman_libvirt.resources.ports import ResourceHost

GpuMode: TypeAlias = Literal["passthrough", "vgpu"]

_DIRECTORY: Final = "dir"
"""libvirt's word for a storage pool that is a directory of some file system."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of resource.

    Attributes:
        capacity: CPUs, bytes or bytes per second; 0 if libvirt does not say.
        allocated: Taken by active domains; of storage, whatever is taken.
        available: What is left, 0 when more was assigned than there is.
        detected: libvirt says what the capacity is.
    """

    capacity: int
    allocated: int
    available: int
    detected: bool = True


@dataclass(frozen=True, slots=True)
class PassthroughGpu:
    """A GPU that a domain can have as a whole."""

    name: str
    available: bool


@dataclass(frozen=True, slots=True)
class GpuProfile:
    """A vGPU profile, over all GPUs that offer it.

    Attributes:
        name: The vendor's, such as ``GRID T4-1B``.
        framebuffer: MiB; 0 if the name does not say.
        available: How many more fit.
    """

    name: str
    framebuffer: int
    available: int


@dataclass(frozen=True, slots=True)
class GpuResources:
    """GPUs as slots.

    Attributes:
        mode: ``vgpu`` when every GPU is cut into vGPUs, else ``passthrough``.
        total: GPUs; in mode ``vgpu``, vGPUs that exist and that still fit.
        used: Of these, how many domains hold.
        quarantined: How many are offered to nobody until they are cleared.
        devices: In mode ``passthrough``.
        profiles: Of GPUs that offer vGPUs, in either mode.
    """

    mode: GpuMode
    total: int
    used: int
    devices: Sequence[PassthroughGpu]
    profiles: Sequence[GpuProfile]
    quarantined: int = 0

    @property
    def allocatable(self) -> int:
        """How many somebody can have now."""
        return self.total - self.used - self.quarantined


@dataclass(frozen=True, slots=True)
class Resources:
    """The answer of ``GET /resources``.

    Attributes:
        guests: Active domains by name.
        domains: All domains by name, those that are only defined included.
    """

    cpu: Resource
    memory: Resource
    disk: Resource
    network: Resource
    gpu: GpuResources | None
    guests: Sequence[Guest]
    domains: Sequence[Domain]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the host can do.

    Attributes:
        platform: Its kind.
        passthrough: It can pass PCI devices through, or libvirt does not say that it cannot.
    """

    platform: Platform
    passthrough: bool


class ResourceReader:
    """Reads what the host has. Changes nothing."""

    def __init__(self, host: ResourceHost, view: HostView, inventory: Inventory) -> None:
        """Read from this host.

        Args:
            host: All but domains and devices.
            view: Its domains, and whether it can pass PCI devices through.
            inventory: Its GPUs.
        """
        self._host = host
        self._view = view
        self._inventory = inventory

    def resources(self) -> Resources:
        """Count what there is and what is taken."""
        has = self._host.read()
        return Resources(
            cpu=count_taken(has.cpus, (each.cpus for each in has.guests)),
            memory=count_taken(has.memory, (each.memory for each in has.guests)),
            disk=count_storage(has.pools),
            network=count_taken(has.link_speed, map(_fastest, has.guests)),
            gpu=count_gpus(self._inventory.list_available()),
            guests=has.guests,
            domains=sorted(self._view.list_domains(), key=lambda domain: domain.name),
        )

    def capabilities(self) -> Capabilities:
        """Say what the host can do."""
        return Capabilities(self._host.platform(), self._view.has_vfio() is not False)


def count_taken(capacity: int | None, taken: Iterable[int]) -> Resource:
    """Say what is left of a capacity; None is one that libvirt does not say."""
    known, allocated = capacity or 0, sum(taken)
    return Resource(known, allocated, max(known - allocated, 0), detected=capacity is not None)


def count_storage(pools: Sequence[StoragePool] | None) -> Resource:
    """Add up pools. Directories of one file system count once, with what is left in the fullest.

    All report the figures of their file system, each as of its own last refresh, so they are known
    by their capacity: that of two different file systems is hardly ever the same to the byte.
    """
    directories = [each for each in pools or () if each.kind == _DIRECTORY]
    by_capacity = {
        each.capacity: each
        for each in sorted(directories, key=lambda pool: pool.available, reverse=True)
    }
    different = [each for each in pools or () if each.kind != _DIRECTORY] + [*by_capacity.values()]
    return Resource(
        capacity=sum(each.capacity for each in different),
        allocated=sum(each.allocation for each in different),
        available=sum(each.available for each in different),
        detected=bool(different),
    )


def count_gpus(available: Sequence[AvailableDevice]) -> GpuResources | None:
    """Count GPUs, or vGPUs when every GPU offers them; None without a GPU.

    A GPU whose virtual functions are enabled cannot be passed through itself; they can.
    """
    gpus = [
        each
        for each in available
        if rules.device_type(each.node) == "gpu"
        and each.node.mdev is None
        and not each.node.virtual_functions
    ]
    if not gpus:
        return None
    nodes = [each.node for each in gpus]
    profiles = _profiles(nodes)
    slices = [each for each in available if each.node.mdev is not None]
    if all(node.vgpu_profiles for node in nodes):
        free = sum(max(each.available for each in node.vgpu_profiles) for node in nodes)
        used = sum(each.assignment is not None for each in slices)
        quarantined = sum(
            each.assignment is None and each.quarantine is not None for each in slices
        )
        return GpuResources("vgpu", len(slices) + free, used, (), profiles, quarantined)
    cut_up = {each.node.parent for each in slices}
    taken = [each.assignment is not None or each.node.node_name in cut_up for each in gpus]
    withheld = [each.quarantine is not None for each in gpus]
    devices = [
        PassthroughGpu(_name(each.node), not (is_taken or is_withheld))
        for each, is_taken, is_withheld in zip(gpus, taken, withheld, strict=True)
    ]
    idle = sum(lost and not held for lost, held in zip(withheld, taken, strict=True))
    return GpuResources("passthrough", len(devices), sum(taken), devices, profiles, idle)


def _profiles(nodes: Sequence[NodeDevice]) -> Sequence[GpuProfile]:
    free: Counter[str] = Counter()
    for node in nodes:
        free.update({each.name: each.available for each in node.vgpu_profiles})
    return [GpuProfile(name, framebuffer_of(name), free[name]) for name in sorted(free)]


def _name(node: NodeDevice) -> str:
    return node.device_name or f"{node.vendor_id}:{node.device_id}"


def _fastest(guest: Guest) -> int:
    """Return the greater limit of the two: a link carries as much one way as the other."""
    return max(guest.download or 0, guest.upload or 0)
