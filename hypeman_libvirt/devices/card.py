"""A card as it can be told from others: what is written into it, and where it hangs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from hypeman_libvirt.devices.address import PciAddress

Proof: TypeAlias = Literal["incarnation", "serial", "slot"]
"""By what a card is known again; see hypeman_libvirt.devices.identity."""

SHARED: Final = ""
"""In place of the serial numbers of a model of which several cards carry the same one."""


@dataclass(frozen=True, slots=True)
class Markings:
    """What is written into a card; None where it could not be read.

    Attributes:
        vpd: Serial number from the vital product data.
        pcie: PCIe Device Serial Number, which every function of a card shares.
        subsystem: ``vendor:device`` of the board, the same on all boards of a kind.
    """

    vpd: str | None = None
    pcie: str | None = None
    subsystem: str | None = None

    @property
    def has_serial(self) -> bool:
        """Whether there is a serial number that tells cards apart."""
        return bool(self.vpd or self.pcie)

    def match(self, other: Markings) -> bool:
        """Whether a serial number was read on both sides, and nothing differs."""
        return any(self._compare_serials(other)) and not self.contradict(other)

    def contradict(self, other: Markings) -> bool:
        """Whether something was read on both sides and differs."""
        return not (all(self._compare_serials(other)) and agree(self.subsystem, other.subsystem))

    def updated(self, newer: Markings) -> Markings:
        """Return what is known after reading again; what several cards carry stays useless."""
        return Markings(
            _newer(self.vpd, newer.vpd),
            _newer(self.pcie, newer.pcie),
            newer.subsystem or self.subsystem,
        )

    def _compare_serials(self, other: Markings) -> Sequence[bool]:
        pairs = ((self.vpd, other.vpd), (self.pcie, other.pcie))
        return [ours == theirs for ours, theirs in pairs if ours and theirs]


UNKNOWN: Final = Markings()


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is known of a card, at registration and each time that it was certain.

    Attributes:
        vendor_id: Of this function; four hex digits, as is the next.
        device_id: Likewise.
        class_code: 24 bit; None where it was not said.
        markings: Of the card.
        topology: Of the physical function, such as ``pci0000:00/08.0/00.0``; None for a
            registration of 0.1.
        card: ``vendor:device`` of the physical function, which is the model.
        virtual_function: Number among those of the physical function; None for a physical one.
        functions: The card's physical functions, such as ``0 10de:2204``.
        family: Topology and markings of every physical function of this model, its own included.
        incarnation: Differs after each boot and each time the kernel finds the card anew; None
            where the service is not on the host.
    """

    vendor_id: str
    device_id: str
    class_code: int | None = None
    markings: Markings = UNKNOWN
    topology: str | None = None
    card: str = ""
    virtual_function: int | None = None
    functions: frozenset[str] = frozenset()
    family: Mapping[str, Markings] = field(default_factory=dict)
    incarnation: str | None = None

    @property
    def is_only_one(self) -> bool:
        """Whether all functions of this model are on one card."""
        return len({slot_of(topology) for topology in self.family}) == 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a registration's card is.

    Attributes:
        state: ``follow``: it is certainly at another address now. ``moved``: it may be any of the
            candidates, and none may be taken for it unasked. ``changed``: something else is in
            its place. ``missing``: nothing is.
        address: Where it certainly is; None unless ``present`` or ``follow``.
        proof: By what; likewise.
        candidates: Where it may be, when ``moved``.
    """

    state: Literal["present", "follow", "moved", "changed", "missing"]
    address: PciAddress | None = None
    proof: Proof | None = None
    candidates: Sequence[PciAddress] = ()


def slot_of(topology: str | None) -> str:
    """Return the topology without the function: the place of the whole card."""
    return (topology or "").rpartition(".")[0]


def agree(one: str | int | None, other: str | int | None) -> bool:
    """Whether both are the same, or one is unknown."""
    return one is None or other is None or one == other


def _newer(old: str | None, new: str | None) -> str | None:
    if SHARED in {old, new}:
        return SHARED
    return new if new is not None else old
