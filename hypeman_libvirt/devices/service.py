"""hypeman's device API on one libvirt host, as the layers above see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from hypeman_libvirt.devices.attachment import Attachment
from hypeman_libvirt.devices.binding import Binding
from hypeman_libvirt.devices.cleaning import Cleaner
from hypeman_libvirt.devices.clearing import Clearing
from hypeman_libvirt.devices.event_feed import EventFeed
from hypeman_libvirt.devices.following import Follower
from hypeman_libvirt.devices.history import History
from hypeman_libvirt.devices.inventory import Inventory
from hypeman_libvirt.devices.labels import Labels
from hypeman_libvirt.devices.moving import Moving
from hypeman_libvirt.devices.preflight import Preflighter
from hypeman_libvirt.devices.reconciliation import Reconciler
from hypeman_libvirt.devices.registration import Registrations
from hypeman_libvirt.devices.slices import Slices
from hypeman_libvirt.devices.topology import TopologyReader
from hypeman_libvirt.devices.transaction import Transactions
from hypeman_libvirt.devices.virtual_functions import VirtualFunctionControl


class Answering(Protocol):
    """Something that the service cannot do without: the host and the registry."""

    def ping(self) -> None:
        """Raise if it does not answer."""


class DeviceService:
    """The use cases, each a method of the object that implements it.

    Attributes:
        inventory: Reads.
        preflight: Says beforehand what would happen.
        event_feed: Publishes what happened.
        topology: Reads the host as a picture.
        history: Remembers who changed what.
        register: Gives a device an id and a name; see Registrations, as for the next two.
        register_mdev: Likewise a mediated device.
        unregister: Unregisters a device.
        create_vgpu: Makes a vGPU and registers it; see Slices, as for the next.
        list_profiles: Lists the vGPU profiles on offer.
        restore_vgpus: Makes those again that the host has forgotten.
        relabel: Gives it another name or other tags; see Labels.
        move: Says where its card is; see Moving.
        clear: Ends its quarantine; see Clearing.
        clean: Runs the release hook for devices whose use has ended; see Cleaner.
        bind: Gives a device to vfio-pci; see Binding, as for the next.
        unbind: Gives it back to its host driver.
        virtual_functions: Reads and sets how many there are; see VirtualFunctionControl.
        reconciler: Compares the host with what should hold over a reboot.
        attach: Gives a device to a domain; see Attachment, as for the next.
        detach: Takes it out again.
        follow: Writes down where cards certainly are now; see Follower, as for the next.
        start_following: Does so on a thread, now and after each announcement of libvirt; begins to
            report to a hub where there is one.
        drain: Waits for operations under way; see Transactions.
        close: Ends every stream of events and closes what the service was built on.
    """

    def __init__(
        self,
        *,
        inventory: Inventory,
        registrations: Registrations,
        slices: Slices,
        labels: Labels,
        moving: Moving,
        clearing: Clearing,
        cleaner: Cleaner,
        binding: Binding,
        attachment: Attachment,
        virtual_functions: VirtualFunctionControl,
        reconciler: Reconciler,
        preflight: Preflighter,
        event_feed: EventFeed,
        topology: TopologyReader,
        history: History,
        transactions: Transactions,
        needs: Sequence[Answering],
        follower: Follower,
        on_start: Callable[[], None],
        on_close: Callable[[], None],
    ) -> None:
        """Take the use cases."""
        self.inventory = inventory
        self.preflight = preflight
        self.event_feed = event_feed
        self.topology = topology
        self.history = history
        self.register = registrations.register
        self.register_mdev = registrations.register_mdev
        self.unregister = registrations.unregister
        self.create_vgpu, self.list_profiles = slices.create, slices.list_profiles
        self.restore_vgpus = slices.restore
        self.relabel = labels.relabel
        self.move = moving.move
        self.clear = clearing.clear
        self.clean = cleaner.clean
        self.bind, self.unbind = binding.bind, binding.unbind
        self.virtual_functions = virtual_functions
        self.reconciler = reconciler
        self.attach, self.detach = attachment.attach, attachment.detach
        self.drain = transactions.drain
        self.follow = follower.follow
        self.start_following = on_start
        self.close = on_close
        self._needs = needs

    def ping(self) -> None:
        """Raise if libvirt or the registry does not answer.

        Raises:
            LibvirtUnavailableError: libvirt does not.
            RegistryUnavailableError: The registry does not.
        """
        for each in self._needs:
            each.ping()
