"""What every use case that changes something is built on."""

from __future__ import annotations

from dataclasses import dataclass

from hypeman_libvirt.devices.persistence import Persistence
from hypeman_libvirt.devices.ports import Host, OnChange, Registry
from hypeman_libvirt.devices.quarantine import Quarantiner
from hypeman_libvirt.devices.references import References
from hypeman_libvirt.devices.snapshot import SnapshotReader
from hypeman_libvirt.devices.transaction import Transactions


@dataclass(frozen=True, slots=True)
class ChangeContext:
    """The host, what is stored about its devices, and how they are changed.

    Attributes:
        host: Where devices and domains are.
        registry: Stores the registrations.
        references: Looks registrations up by what clients call them.
        snapshots: Reads what the checks decide on, and says what is locked.
        transactions: Runs the operations.
        quarantiner: Puts devices under quarantine.
        on_change: Is called with each change that was made.
        persistence: Says what holds over a reboot.
    """

    host: Host
    registry: Registry
    references: References
    snapshots: SnapshotReader
    transactions: Transactions
    quarantiner: Quarantiner
    on_change: OnChange
    persistence: Persistence
