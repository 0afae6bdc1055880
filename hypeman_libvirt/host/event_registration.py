"""What one connection to libvirt announces, and what it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, Literal, TypeAlias

import libvirt

from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.host.errors import READING, is_lost, translate

Kind: TypeAlias = Literal["domain", "node device"]
KINDS: Final[tuple[Kind, ...]] = ("domain", "node device")

_EVENTS: Final[Mapping[Kind, tuple[int, ...]]] = {
    "domain": (
        libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
        libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
        libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
        libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
    ),
    "node device": (
        libvirt.VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE,
        libvirt.VIR_NODE_DEVICE_EVENT_ID_UPDATE,
    ),
}
_REGISTER_AGAIN: Final = 30.0
"""Seconds after which a registration that libvirt refused is tried again."""


class EventRegistration:
    """The events of one connection, each registered once.

    Where libvirt refuses (polkit, or the daemon of node devices is down) the connection is used
    without: then it does not say that it announces, and whatever is asked is read.

    Attributes:
        refused: Why a kind is not announced although the driver could; empty if nothing failed.
    """

    def __init__(
        self,
        connection: libvirt.virConnect,
        on_event: Callable[[Kind, str], None],
        monotonic: Callable[[], float],
    ) -> None:
        """Register nothing yet.

        Args:
            connection: Announces.
            on_event: Gets the kind and the name of what has changed; from any thread.
            monotonic: Seconds that never go back.
        """
        self._connection = connection
        self._on_event = on_event
        self._monotonic = monotonic
        self._callbacks: list[Callable[[], object]] = []
        self._announced: set[Kind] = set()
        self._due: float | None = float("-inf")
        self.refused: Mapping[str, DeviceError] = {}

    def register(self) -> None:
        """Register what is not registered yet.

        Raises:
            libvirt.libvirtError: The connection is dead.
        """
        refused: dict[str, DeviceError] = {}
        for kind in KINDS:
            if kind not in self._announced and (error := self._register_kind(kind)) is not None:
                refused[kind] = error
        self.refused = refused
        self._due = self._monotonic() + _REGISTER_AGAIN if refused else None

    def is_due(self) -> bool:
        """Whether something is not registered yet, and now is the time to try."""
        return self._due is not None and self._monotonic() >= self._due

    def announces(self, kind: Kind) -> bool:
        """Whether every change of that kind is announced."""
        return kind in self._announced

    def unregister(self) -> None:
        """Let nothing be announced any more; libvirt holds the connection for its callbacks."""
        callbacks, self._callbacks = self._callbacks, []
        self._announced.clear()
        for unregister in callbacks:
            with suppress(libvirt.libvirtError):
                unregister()

    def _register_kind(self, kind: Kind) -> DeviceError | None:
        """Register all events of a kind or none; a driver that lacks one announces nothing."""
        begun = len(self._callbacks)
        complete = True
        try:
            for event in _EVENTS[kind]:
                complete = self._register_one(kind, event) and complete
        except libvirt.libvirtError as error:
            if is_lost(error) and not answers(self._connection):
                raise
            self._take_back(begun)
            return translate(error, f"registration for events of a {kind}", READING)
        if complete:
            self._announced.add(kind)
        return None

    def _register_one(self, kind: Kind, event: int) -> bool:
        with unless_lacking():
            if kind == "domain":
                number = self._connection.domainEventRegisterAny(None, event, self._on_domain, None)
                cancel = self._connection.domainEventDeregisterAny
            else:
                number = self._connection.nodeDeviceEventRegisterAny(
                    None, event, self._on_node_device, None
                )
                cancel = self._connection.nodeDeviceEventDeregisterAny
            self._callbacks.append(partial(cancel, number))
            return True
        return False

    def _take_back(self, begun: int) -> None:
        while len(self._callbacks) > begun:
            with suppress(libvirt.libvirtError):
                self._callbacks.pop()()

    def _on_domain(self, _: libvirt.virConnect, domain: libvirt.virDomain, *_more: object) -> None:
        self._on_event("domain", domain.name())

    def _on_node_device(
        self, _: libvirt.virConnect, node: libvirt.virNodeDevice, *_more: object
    ) -> None:
        self._on_event("node device", node.name())


def answers(connection: libvirt.virConnect) -> bool:
    """Whether the connection itself is alive.

    With a daemon for each driver, a call that another daemon serves fails as on a connection that
    was lost when that one is down; this one is served by the daemon that was connected to.
    """
    try:
        connection.getLibVersion()
    except libvirt.libvirtError as error:
        return not is_lost(error)
    return True


@contextmanager
def unless_lacking() -> Iterator[None]:
    """Do without what the driver does not have; any other error is one."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
