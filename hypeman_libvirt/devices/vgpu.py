"""vGPU profiles: what the GPUs of a host offer, and which of them a new vGPU goes to.

How many more fit is what the driver says at that moment, never a table: it knows what other types
on the same card leave room for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.node_device import Framework, NodeDevice, VgpuProfile

_FRAMEBUFFER: Final = re.compile(r"-(\d+)[ABCQ](?:ME)?$")
_SMALLEST_FRAMEBUFFER: Final = 512
_GIB: Final = 1024
"""MiB of one GiB."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A type of vGPU on one PCI function.

    Attributes:
        function: The GPU, or a virtual function of it.
        type: How many more fit there, among others.
    """

    function: NodeDevice
    type: VgpuProfile

    @property
    def gpu(self) -> PciAddress:
        """The GPU itself: of a virtual function its physical one."""
        return self.function.physical_function or self.function.address


@dataclass(frozen=True, slots=True)
class ProfileParent:
    """A GPU that offers a profile.

    Attributes:
        pci_address: Of the GPU itself.
        name: For people.
        available: How many more fit.
    """

    pci_address: PciAddress
    name: str
    available: int


@dataclass(frozen=True, slots=True)
class Profile:
    """A vGPU profile, over all GPUs that offer it.

    Attributes:
        name: The vendor's, such as ``GRID T4-1B``.
        framebuffer: MiB; 0 if the name does not say.
        framework: How such a vGPU is made.
        parents: GPUs that offer it, by address.
    """

    name: str
    framebuffer: int
    framework: Framework
    parents: Sequence[ProfileParent]

    @property
    def available(self) -> int:
        """How many more fit on all GPUs together."""
        return sum(each.available for each in self.parents)


def list_profiles(nodes: Sequence[NodeDevice]) -> Sequence[Profile]:
    """List the profiles that these GPUs offer, by name."""
    offers = list(_list_offers(nodes))
    names = sorted({_key(each) for each in offers})
    gpus = {node.address: node for node in nodes}
    return [
        Profile(
            name,
            framebuffer_of(name),
            framework,
            _parents([each for each in offers if _key(each) == (name, framework)], gpus),
        )
        for name, framework in names
    ]


def find_offers(nodes: Iterable[NodeDevice], profile: str) -> Sequence[Offer]:
    """List who offers a profile: by its name, its name without the brand, or its type's id."""
    offers = _list_offers(nodes)
    return [each for each in offers if is_called(each.type.type_id, each.type.name, profile)]


def is_called(type_id: str, name: str, profile: str) -> bool:
    """Whether a client may call a type so: ``GRID T4-1B``, ``T4-1B`` or ``nvidia-222``."""
    return profile in {type_id, name, name.rpartition(" ")[2]}


def place(offers: Sequence[Offer], numa_node: int | None = None) -> Sequence[Sequence[Offer]]:
    """Return GPUs with room, the best first: on the preferred NUMA node, then the emptiest one.

    Each as the functions of it that have room: another client may take one of them meanwhile.
    """
    room = _count_room(offers)
    gpus: dict[PciAddress, list[Offer]] = {}
    for each in offers:
        if each.type.available > 0:
            gpus.setdefault(each.gpu, []).append(each)

    def rank(choices: Sequence[Offer]) -> tuple[bool, int, PciAddress]:
        first = choices[0]
        elsewhere = numa_node is not None and first.function.numa_node != numa_node
        return elsewhere, -room[first.gpu], first.gpu

    return sorted(gpus.values(), key=rank)


def framebuffer_of(profile: str) -> int:
    """Read the MiB of frame buffer out of a vGPU profile's name; 0 if it has none.

    Source: NVIDIA's vGPU user guide: the GPU, ``-``, GiB of frame buffer, the series; 0 for 512
    MiB; of a MIG slice with its number of slices before.
    """
    match = _FRAMEBUFFER.search(profile)
    return (int(match[1]) * _GIB or _SMALLEST_FRAMEBUFFER) if match else 0


def name_of_type(types: Collection[VgpuProfile], type_id: str) -> str:
    """Return the vendor's name of a type; its id where none of the types is it."""
    return next((each.name for each in types if each.type_id == type_id), type_id)


def _key(offer: Offer) -> tuple[str, Framework]:
    return offer.type.name, offer.type.framework


def _list_offers(nodes: Iterable[NodeDevice]) -> Iterator[Offer]:
    return (Offer(node, each) for node in nodes for each in node.vgpu_profiles)


def _count_room(offers: Iterable[Offer]) -> Mapping[PciAddress, int]:
    room: dict[PciAddress, int] = {}
    for each in offers:
        room[each.gpu] = room.get(each.gpu, 0) + each.type.available
    return room


def _parents(
    offers: Sequence[Offer], gpus: Mapping[PciAddress, NodeDevice]
) -> Sequence[ProfileParent]:
    functions = {each.gpu: gpus.get(each.gpu, each.function) for each in offers}
    room = _count_room(offers)
    return [ProfileParent(gpu, _name(functions[gpu]), room[gpu]) for gpu in sorted(functions)]


def _name(node: NodeDevice) -> str:
    return node.device_name or f"{node.vendor_id}:{node.device_id}"
