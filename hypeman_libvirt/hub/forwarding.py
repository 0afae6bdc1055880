"""Changes, and whatever only the host itself can say, go to the agent that owns the device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final
from urllib.parse import quote

from hypeman_libvirt.devices.errors import DeviceError, DeviceNotFoundError
from hypeman_libvirt.devices.model import Caller
from hypeman_libvirt.hub import rules
from hypeman_libvirt.hub.agents import AgentAnswer, Agents, Call
from hypeman_libvirt.hub.hosts import Hosts
from hypeman_libvirt.hub.listing import Listing
from hypeman_libvirt.hub.model import HostRecord
from hypeman_libvirt.hub.reports import Reports

_log: Final = logging.getLogger(__name__)


class Forwarder:
    """Finds the owner of a device and asks it."""

    def __init__(self, listing: Listing, hosts: Hosts, agents: Agents, reports: Reports) -> None:
        """Find devices in this list and hosts in these; store what agents answer."""
        self._listing = listing
        self._hosts = hosts
        self._agents = agents
        self._reports = reports

    def to_owner(
        self,
        reference: str,
        call: Call,
        caller: Caller,
        allowed: Collection[str] | None,
    ) -> tuple[AgentAnswer, str]:
        """Ask the agent of a device; return its answer and the host's name.

        Args:
            reference: Of the device, as the client wrote it.
            call: Its path is what comes after that of the device.
            caller: On whose behalf.
            allowed: Names of the hosts that the token is good for; None for all.

        Raises:
            NotFoundError: No host has such a device.
            AmbiguousNameError: Several have.
            ForbiddenError: The token is not good for its host.
            ClaimedError: It is in somebody else's claim, and this would change it.
            HostUnreachableError: The agent gave no answer.
        """
        found = self._listing.find(reference, allowed)
        if call.method != "GET":
            rules.check_unclaimed(found, caller)
        path = f"/devices/{quote(found.key.id, safe='')}{call.path}"
        answer = self._agents.call(self._hosts.get(found.key.host), replace(call, path=path))
        if answer.is_success and call.method == "DELETE":
            self._note(lambda: self._reports.forget_device(found.key.host, found.key.id))
        elif answer.is_success and call.method != "GET":
            self._note(lambda: self._reports.note_device(found.key.host, answer.read_json()))
        return answer, found.host_name

    def register(
        self, address: str, call: Call, host: str | None, allowed: Collection[str] | None
    ) -> tuple[AgentAnswer, str]:
        """Ask the agent of the host that has a device at an address to register it."""
        owner = self.host_with(address, host, allowed)
        answer = self._agents.call(owner, call)
        if answer.is_success:
            self._note(lambda: self._reports.note_device(owner.key, answer.read_json()))
        return answer, owner.name

    def to_host(self, name: str, call: Call, allowed: Collection[str] | None) -> AgentAnswer:
        """Ask the agent of a host about the host itself."""
        host = self._hosts.get(name)
        rules.check_host_allowed(host.name, allowed)
        return self._agents.call(host, call)

    def host_with(
        self, address: str, host: str | None, allowed: Collection[str] | None
    ) -> HostRecord:
        """Return the one host that has a device at an address; the named one may have it unseen.

        Raises:
            DeviceNotFoundError: No host has.
            AmbiguousNameError: Several have.
            NotFoundError: There is no such host.
            ForbiddenError: The token is not good for it.
        """
        names = [host] if host is not None else self._listing.hosts_with(address, None)
        if allowed is not None and host is None:
            names = [each for each in names if each in allowed]
        if not names:
            raise DeviceNotFoundError(
                f"no host has a PCI device {address}", hint="GET /devices/available lists them"
            )
        if len(names) > 1:
            raise rules.ambiguous(address, [f"{address}@{each}" for each in names])
        owner = self._hosts.get(names[0])
        rules.check_host_allowed(owner.name, allowed)
        return owner

    def _note(self, write: Callable[[], None]) -> None:
        """Store an agent's answer for the next list; its report says the same a little later."""
        try:
            write()
        except DeviceError as error:
            _log.warning("an agent's answer was not stored: %s", error.message)
        except ValueError:
            _log.warning("an agent's answer is no device, and was not stored")
