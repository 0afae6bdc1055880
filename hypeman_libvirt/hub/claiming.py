"""Claims: so many devices, all or none, that nobody else gets.

Two phases. Devices are reserved in one transaction; then each agent is asked, whose checks decide
on live facts, to bind its devices or to attach them. Only when all have said yes the claim is
given. Whatever fails, and whichever hub dies, everything is given back.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Final
from urllib.parse import quote

from hypeman_libvirt.devices.errors import (
    BusyError,
    ConflictError,
    DeviceError,
    ErrorDetail,
    ForbiddenError,
    HostUnreachableError,
    InstanceNotFoundError,
    InUseError,
)
from hypeman_libvirt.hub import rules
from hypeman_libvirt.hub.agents import AgentAnswer, Agents, Call
from hypeman_libvirt.hub.claim_store import ClaimStore
from hypeman_libvirt.hub.hosts import Hosts
from hypeman_libvirt.hub.model import Claim, ClaimedDevice, ClaimSpec, DeviceKey, Pool
from hypeman_libvirt.hub.placement import choose_pools, refuse, spread_of

_log: Final = logging.getLogger(__name__)

_ROUNDS: Final = 4
"""How often other devices are tried after agents have refused some."""
_CONTENTION: Final = 15.0
"""Seconds in which a claim that others are in the way of is tried again."""
_PAUSE: Final = timedelta(seconds=30)
"""Time after which giving back is tried again, where an agent did not answer."""
_UNKNOWN: Final = frozenset({"not_found", "device_not_found"})


class Claiming:
    """Makes and ends claims."""

    def __init__(
        self,
        store: ClaimStore,
        hosts: Hosts,
        agents: Agents,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
    ) -> None:
        """Reserve in this store and ask these agents.

        Args:
            store: Where claims are.
            hosts: Where agents are.
            agents: Asks them.
            sleep: Waits so many seconds.
            monotonic: Seconds that never go back.
            chance: Spreads claimers that are in each other's way.
        """
        self._store = store
        self._hosts = hosts
        self._agents = agents
        self._sleep = sleep
        self._monotonic = monotonic
        self._chance = chance or random.Random()  # noqa: S311  # nosec B311 - no secret

    def claim(
        self,
        spec: ClaimSpec,
        *,
        subject: str | None,
        key: str | None,
        hosts: Collection[str] | None,
    ) -> Claim:
        """Claim devices; with an idempotency key that was used, return that claim.

        Raises:
            NoCapacityError: So many are not free; it says how near it came.
            ConflictError: The key was used for another claim.
            BusyError: Others are in the way, or a request with the same key is under way.
            InstanceNotFoundError: No host has such a domain.
            AmbiguousNameError: Several have.
        """
        if key is not None and (known := self._store.find_by_key(subject, key)):
            return _same(known, spec, key)
        allowed = hosts if spec.instance is None else [self._host_of(spec.instance, hosts)]
        failures: dict[DeviceKey, ErrorDetail] = {}
        for _ in range(_ROUNDS):
            claim = self.reserve(spec, subject=subject, key=key, hosts=allowed, without=failures)
            refused = self._take_all(claim)
            if not refused and self._store.activate(claim.id):
                return self._store.get(claim.id)
            self._store.abandon(claim.id)
            self._give_back_logged(claim.id)
            failures |= refused
        raise refuse(spec, self._store.pools(spec, allowed, failures), [*failures.values()])

    def reserve(
        self,
        spec: ClaimSpec,
        *,
        subject: str | None,
        key: str | None = None,
        hosts: Collection[str] | None = None,
        without: Mapping[DeviceKey, ErrorDetail] | None = None,
    ) -> Claim:
        """Reserve devices; while others hold locks on some that are free, try again.

        Raises:
            NoCapacityError: So many are not free.
            BusyError: Others are in the way for long.
        """
        refused, deadline = without or {}, self._monotonic() + _CONTENTION
        while True:
            for pool in self._pools(spec, hosts, refused):
                claim = self._store.reserve(
                    spec, subject=subject, key=key, within=pool, hosts=hosts, without=refused
                )
                if claim is not None:
                    return claim
            counted = self._store.pools(spec, hosts, refused)
            if not choose_pools(spec, counted):
                raise refuse(spec, counted, [*refused.values()])
            if self._monotonic() > deadline:
                raise BusyError("too many claim the same devices", hint="try again")
            self._sleep(self._chance.uniform(0.005, 0.05))

    def _pools(
        self, spec: ClaimSpec, hosts: Collection[str] | None, refused: Collection[DeviceKey]
    ) -> Sequence[Pool | None]:
        """Return where to reserve; in the whole fleet nothing needs to be counted before."""
        if spread_of(spec) == "fleet":
            return [None]
        return choose_pools(spec, self._store.pools(spec, hosts, refused))

    def release(self, claim_id: str, subject: str | None) -> None:
        """Give the devices of a claim back: out of the instance, and to their host drivers.

        Raises:
            NotFoundError: There is no such claim.
            ForbiddenError: It is somebody else's.
            InUseError: A domain has a device that the claim has not attached itself.
            BusyError: The claim is being worked on.
            HostUnreachableError: An agent does not answer; a hub goes on when it does.
        """
        claim = self._store.get(claim_id)
        if claim.subject != subject:
            raise ForbiddenError(f"claim {claim.id} is of {claim.subject!r}")
        if claim.state == "active":
            self._refuse_attached(claim)
        self._store.begin_release(claim.id)
        self._give_back(self._store.get(claim.id))

    def release_overdue(self) -> bool:
        """Give back one claim whose hub has died or that has expired; False if there is none."""
        claim = self._store.next_overdue()
        if claim is None:
            return False
        _log.warning("claim %s of %r is given back: its time is over", claim.id, claim.subject)
        self._give_back_logged(claim.id)
        return True

    def _take_all(self, claim: Claim) -> dict[DeviceKey, ErrorDetail]:
        """Ask the agents for the devices of a claim, until one refuses; return who did."""
        for device in claim.devices:
            try:
                refusal = self._take(claim, device)
            except HostUnreachableError as error:
                refusal = ErrorDetail(error.code, error.message)
            if refusal is not None:
                return {device.key: refusal}
        return {}

    def _take(self, claim: Claim, device: ClaimedDevice) -> ErrorDetail | None:
        """Check a device live, then bind or attach it; return why not."""
        now = self._ask(claim, device, "GET")
        if not now.is_success:
            return _detail(device, now)
        body = now.read_json()
        if body.get("attached_to") is not None:
            return ErrorDetail("in_use", f"{_name(device)} is attached to {body['attached_to']}")
        bound = body.get("bound_to_vfio") is True
        if not self._store.begin_taking(claim.id, device.key, was_bound=bound):
            return ErrorDetail("busy", "another hub has ended the claim")
        if claim.spec.instance is not None:
            wanted = {"instance": claim.spec.instance, "scope": "group"}
            done = self._ask(claim, device, "POST", "attach", wanted)
        else:
            done = self._ask(claim, device, "POST", "bind", {"scope": "group"})
        if not done.is_success:
            return _detail(device, done)
        self._store.took(claim.id, device.key)
        return None

    def _give_back_logged(self, claim: str) -> None:
        """Give back what can be given back now; the rest is tried again later."""
        try:
            self._give_back(self._store.get(claim))
        except (HostUnreachableError, InUseError, BusyError) as error:
            _log.warning("claim %s is not given back yet: %s", claim, error.message)

    def _give_back(self, claim: Claim) -> None:
        """Undo what the claim has done to each device, then free all of them."""
        for device in claim.devices:
            if device.step == "reserved":
                continue
            try:
                self._undo(claim, device)
            except (HostUnreachableError, InUseError, BusyError):
                self._store.keep(claim.id, "releasing", _PAUSE)
                raise
            self._store.gave_back(claim.id, device.key)
        self._store.finish(claim.id)

    def _undo(self, claim: Claim, device: ClaimedDevice) -> None:
        if self._hosts.get(device.key.host).gone_at is not None:
            return  # nobody to ask
        if claim.spec.instance is not None:
            detached = self._ask(claim, device, "POST", "detach")
            if not detached.is_success and detached.code not in {"not_attached", *_UNKNOWN}:
                raise _not_given_back(device, detached)
        if not device.was_bound:
            unbound = self._ask(claim, device, "POST", "unbind", {"scope": "group"})
            if not unbound.is_success and unbound.code not in _UNKNOWN:
                raise _not_given_back(device, unbound)

    def _refuse_attached(self, claim: Claim) -> None:
        """Refuse to end a claim whose devices a domain has got otherwise, before anything is done.

        Raises:
            InUseError: One has.
            BusyError: An agent does not say.
        """
        if claim.spec.instance is not None:
            return
        for device in claim.devices:
            if self._hosts.get(device.key.host).gone_at is None:
                now = self._ask(claim, device, "GET")
                if not now.is_success and now.code not in _UNKNOWN:
                    raise _not_given_back(device, now)
                holder = now.read_json().get("attached_to")
                if holder is not None:
                    raise InUseError(
                        f"{_name(device)} is attached to {holder}",
                        hint=f"POST /devices/{_name(device)}/detach first",
                    )

    def _ask(
        self,
        claim: Claim,
        device: ClaimedDevice,
        method: str,
        operation: str | None = None,
        body: object = None,
    ) -> AgentAnswer:
        host = self._hosts.get(device.key.host)
        path = f"/devices/{quote(device.key.id, safe='')}"
        call = Call(
            method,
            path if operation is None else f"{path}/{operation}",
            "device:read" if method == "GET" else "device:write",
            claim.subject,
            b"" if body is None else json.dumps(body).encode(),
        )
        return self._agents.call(host, call)

    def _host_of(self, instance: str, allowed: Collection[str] | None) -> str:
        """Return the one host that has a domain.

        Raises:
            InstanceNotFoundError: None has.
            AmbiguousNameError: Several have.
        """
        own, named = rules.split_reference(instance)
        found = self._hosts.find_instance(own if named else instance)
        names = [each.name for each in found if named in {None, each.name}]
        if not names:
            raise InstanceNotFoundError(
                f"no host has a domain {instance!r}", hint="GET /hosts lists the hosts"
            )
        if len(names) > 1:
            raise rules.ambiguous(instance, [f"{own}@{name}" for name in names])
        rules.check_host_allowed(names[0], allowed)
        return names[0]


def _same(known: Claim, spec: ClaimSpec, key: str) -> Claim:
    if known.spec != spec:
        raise ConflictError(
            f"idempotency key {key!r} was used for another claim ({known.id})",
            hint="a new claim needs a new key",
        )
    if known.state != "active":
        raise BusyError("the first request with this idempotency key is still under way")
    return known


def _name(device: ClaimedDevice) -> str:
    return f"{device.name}@{device.host_name}"


def _detail(device: ClaimedDevice, answer: AgentAnswer) -> ErrorDetail:
    return ErrorDetail(answer.code, f"{_name(device)}: {answer.message}")


def _not_given_back(device: ClaimedDevice, answer: AgentAnswer) -> DeviceError:
    kind = InUseError if answer.code == InUseError.code else BusyError
    return kind(f"{_name(device)} cannot be given back now: {answer.message}")
