"""vGPUs: made on the GPU with most room and registered in one step, and taken away again."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from hypeman_libvirt.devices import checks, rules, vgpu
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.context import ChangeContext
from hypeman_libvirt.devices.errors import (
    DeviceError,
    DeviceNotFoundError,
    ErrorDetail,
    NoCapacityError,
    NotFoundError,
    ProfileNotFoundError,
)
from hypeman_libvirt.devices.model import Caller, Change, Device, Registration, Vgpu
from hypeman_libvirt.devices.new_registration import RegistrationFactory
from hypeman_libvirt.devices.node_device import Framework, NodeDevice
from hypeman_libvirt.devices.slice_makers import NO_TYPE, SliceMaker
from hypeman_libvirt.devices.snapshot import lock_keys
from hypeman_libvirt.devices.transaction import Transaction
from hypeman_libvirt.devices.vgpu import Offer, Profile

_log: Final = logging.getLogger(__name__)


class Slices:
    """Makes vGPUs, and takes away those that it has made.

    The registration comes first and goes last, so that whatever a killed service leaves behind has
    a name, and can be deleted.
    """

    def __init__(
        self,
        context: ChangeContext,
        factory: RegistrationFactory,
        makers: Mapping[Framework, SliceMaker],
        *,
        patience: float = 5.0,
    ) -> None:
        """Make vGPUs in this context.

        Args:
            context: The host, and what is stored about its devices.
            factory: Describes new registrations.
            makers: Of each framework.
            patience: Seconds to wait for another operation on a GPU.
        """
        self._host = context.host
        self._registry = context.registry
        self._snapshots = context.snapshots
        self._transactions = context.transactions
        self._on_change = context.on_change
        self._quarantiner = context.quarantiner
        self._factory = factory
        self._makers = makers
        self._patience = patience

    def list_profiles(self) -> Sequence[Profile]:
        """List the vGPU profiles that the host's GPUs offer, with how many more fit now."""
        return vgpu.list_profiles(self._host.read_node_devices())

    def create(
        self,
        profile: str,
        name: str | None,
        tags: Mapping[str, str],
        caller: Caller,
        *,
        parent: str | None = None,
        numa_node: int | None = None,
        persist: bool = False,
    ) -> Device:
        """Make a vGPU and register it, or do neither.

        Args:
            profile: Its name, or the id of its type.
            name: None for the default name.
            tags: Free words.
            caller: On whose behalf.
            parent: Address of the GPU; None for the one with most room.
            numa_node: GPUs of this node come first; None for no preference.
            persist: Start it with the host, too.

        Raises:
            InvalidNameError: The name breaks the rules.
            InvalidTagsError: A tag breaks the rules.
            InvalidPciAddressError: The parent is no PCI address.
            DeviceNotFoundError: The host has no such parent.
            ProfileNotFoundError: No GPU offers the profile.
            NoCapacityError: None that does, or not this parent, has room.
            ConflictError: The name is taken.
        """
        if name is not None:
            rules.check_name(name)
        rules.check_tags(tags)
        address = None if parent is None else PciAddress.parse(parent)
        earlier = self._made_before(profile, name, caller)
        if earlier is not None:
            return Device(earlier, self._host.node_device(earlier.device), None)
        offers = self._find_offers(profile, address)
        refusal: NoCapacityError | None = None
        for choices in vgpu.place(offers, numa_node):
            try:
                return self._run(choices, name, tags, caller, persist=persist)
            except NoCapacityError as error:  # another client took the last room meanwhile
                refusal = error
        raise refusal or _full(offers, profile)

    def take_away(self, registration: Registration, caller: Caller) -> None:
        """Take away a vGPU that was made here, and unregister it; whatever is left of it goes.

        Raises:
            InUseError: A domain has it.
        """

        def take_away(transaction: Transaction) -> None:
            snapshot = self._snapshots.read("unregister", registration, None)
            checks.guard(snapshot)
            self._maker_of(registration.vgpu).take_away(transaction, registration)
            if not self._registry.remove(registration.host, registration.id):
                raise NotFoundError(f"device {registration.id} was unregistered meanwhile")
            self._on_change(Change("unregister", caller, snapshot.device, None))

        of_device = self._snapshots.lock_keys(registration.device)
        keys = {*of_device, *self._lock_keys_of_gpu(registration)}
        self._transactions.run(keys, take_away, patience=self._patience)

    def restore(self) -> Sequence[Registration]:
        """Make vGPUs again that persist and that the host has forgotten, such as at its start.

        One that cannot be made goes to the log.

        Returns:
            Those that were made again.

        Raises:
            DeviceError: Host or registry does not answer.
        """
        key = self._host.key()
        lost = [
            each
            for each in self._registry.list_registrations(key, {})
            if each.vgpu is not None and each.vgpu.persist and self._has_lost_its_type(each)
        ]
        return [each for each in lost if self._make_again(each)]

    def _has_lost_its_type(self, registration: Registration) -> bool:
        node = None if registration.displaced else self._host.node_device(registration.pci_address)
        return node is not None and node.vgpu_type == NO_TYPE

    def _make_again(self, registration: Registration) -> bool:
        def make(transaction: Transaction) -> bool:
            if registration.vgpu is None or not self._has_lost_its_type(registration):
                return False
            maker = self._maker_of(registration.vgpu)
            maker.make(transaction, registration.pci_address, registration.vgpu, persist=True)
            return True

        marked = {"device_id": registration.id, "pci_address": str(registration.pci_address)}
        try:
            keys = self._lock_keys_of_gpu(registration)
            done = self._transactions.run(keys, make, patience=self._patience)
        except DeviceError:
            _log.exception("%s could not be made a vGPU again", registration.name, extra=marked)
            return False
        if done:
            _log.info("%s was made a vGPU again", registration.name, extra=marked)
        return done

    def _made_before(self, profile: str, name: str | None, caller: Caller) -> Registration | None:
        """Return the registration that an earlier try of the same request has made.

        Only a name says that it is the same: without one each request makes another vGPU.
        """
        if not caller.is_retry or name is None:
            return None
        earlier = self._registry.find(self._host.key(), name)
        if earlier is None or earlier.vgpu is None or not earlier.vgpu.made:
            return None
        same = vgpu.is_called(earlier.vgpu.type_id, earlier.vgpu.profile, profile)
        return earlier if same and self._factory.is_recent(earlier, caller) else None

    def _find_offers(self, profile: str, parent: PciAddress | None) -> Sequence[Offer]:
        nodes = self._host.read_node_devices()
        given = next((node for node in nodes if node.address == parent), None)
        if parent is not None and given is None:
            raise DeviceNotFoundError(
                f"no PCI device {parent} on this host",
                hint="GET /devices/vgpu-profiles lists the GPUs that offer vGPUs",
            )
        offers = vgpu.find_offers(nodes, profile)
        if not offers:
            raise self._none(profile, nodes, given)
        if given is None:
            return self._list_free(offers)
        here = [each for each in offers if given.address in {each.gpu, each.function.address}]
        if not here:
            raise _not_here(profile, given, offers)
        return self._list_free(here)

    def _list_free(self, offers: Sequence[Offer]) -> Sequence[Offer]:
        """Leave out GPUs under quarantine, and virtual functions that somebody has or means."""
        functions = {each.function.address for each in offers}
        single = {each.function.address for each in offers if each.type.framework == "vendor"}
        held = self._host.read_assignments(single) if single else {}
        key = self._host.key()
        taken = {each for each in single if held.get(each)}
        taken |= {each for each in single if self._registry.find_by_device(key, each)}
        taken |= {each for each in functions if self._quarantiner.find(each)}
        return [each for each in offers if each.function.address not in taken]

    def _none(
        self, profile: str, nodes: Sequence[NodeDevice], parent: NodeDevice | None
    ) -> DeviceError:
        """Say why nobody offers a profile: a driver without room for more may name none."""
        registered = self._registry.list_registrations(self._host.key(), {})
        slices = [each.vgpu for each in registered if each.vgpu is not None]
        if any(vgpu.is_called(each.type_id, each.profile, profile) for each in slices):
            return NoCapacityError(
                f"no virtual function can become another vGPU of profile {profile!r} now",
                hint="delete one first, or enable more virtual functions",
            )
        return _unknown(profile, vgpu.list_profiles(nodes), parent)

    def _run(
        self,
        choices: Sequence[Offer],
        name: str | None,
        tags: Mapping[str, str],
        caller: Caller,
        *,
        persist: bool,
    ) -> Device:
        """Make one on a GPU, on the first of its functions that still has room."""
        first = choices[0]
        maker = self._makers[first.type.framework]
        planned = maker.plan(first, persist=persist)

        def make(transaction: Transaction) -> Device:
            function = self._choose(choices)
            transaction.lock(lock_keys(function.address, function))
            new = self._factory.make(function, name, tags, caller, planned)
            transaction.undo.callback(self._forget, new, maker)
            self._registry.add(new)
            node = maker.make(transaction, function.address, planned, persist=persist)
            after = Device(new, node, None)
            self._on_change(Change("register", caller, None, after))
            return after

        of_function = lock_keys(first.function.address, first.function)
        keys = {*of_function, f"device {planned.mdev or first.gpu}", f"device {first.gpu}"}
        return self._transactions.run(keys, make, patience=self._patience)

    def _choose(self, choices: Sequence[Offer]) -> NodeDevice:
        """Return the first function that has room, now that its GPU is locked."""
        for each in choices:
            function = self._host.node_device(each.function.address)
            types = function.vgpu_profiles if function else ()
            fits = any(one.type_id == each.type.type_id and one.available for one in types)
            if function is not None and fits and self._list_free([each]):
                return function
        raise _full(choices, choices[0].type.name)

    def _maker_of(self, slice_: Vgpu | None) -> SliceMaker:
        return self._makers["mdev" if slice_ and slice_.mdev else "vendor"]

    def _lock_keys_of_gpu(self, registration: Registration) -> Collection[str]:
        """Return the keys of the locks on the function that it is on, and on the GPU."""
        function = self._host.node_device(registration.pci_address)
        keys = lock_keys(registration.pci_address, function)
        physical = function and function.physical_function
        return {*keys, f"device {physical}"} if physical else keys

    def _forget(self, new: Registration, maker: SliceMaker) -> None:
        """Undo a registration, unless its vGPU could not be taken away: then DELETE can."""
        try:
            if not maker.is_gone(new):
                _log.error(
                    "vGPU %s stays registered as %s: it could not be taken away",
                    new.device,
                    new.name,
                    extra={"device_id": new.id, "pci_address": str(new.pci_address)},
                )
                return
            self._registry.remove(new.host, new.id)
        except DeviceError:
            _log.exception(
                "could not remove the registration of vGPU %s again",
                new.device,
                extra={"device_id": new.id, "pci_address": str(new.pci_address)},
            )


def _unknown(
    profile: str, known: Sequence[Profile], parent: NodeDevice | None
) -> ProfileNotFoundError:
    hint = "GET /devices/vgpu-profiles lists those that are offered"
    if not known:
        hint = "the GPUs' vGPU driver must be loaded on the host, and none be on vfio-pci"
    if parent is not None and rules.on_vfio(parent.driver):
        hint = f"{parent.address} is on {parent.driver}; give it back to its host driver first"
    return ProfileNotFoundError(
        f"no GPU of this host offers the vGPU profile {profile[: rules.MAX_NAME]!r}",
        hint=hint,
        details=[ErrorDetail("profile", each.name) for each in known],
    )


def _not_here(profile: str, parent: NodeDevice, offers: Sequence[Offer]) -> NoCapacityError:
    finding = f"{parent.address} offers no vGPU of profile {profile!r}"
    if rules.on_vfio(parent.driver):
        finding = f"{finding}: it is on {parent.driver}"
    elsewhere = ", ".join(str(each) for each in sorted({each.gpu for each in offers}))
    return NoCapacityError(finding, hint=f"these do: {elsewhere}")


def _full(offers: Sequence[Offer], profile: str) -> NoCapacityError:
    gpus = ", ".join(str(each) for each in sorted({each.gpu for each in offers}))
    return NoCapacityError(
        f"no room for another vGPU of profile {profile!r}" + (f" on {gpus}" if gpus else ""),
        hint="delete one there; GPUs may have room for one type only, as GET "
        "/devices/vgpu-profiles says",
    )
