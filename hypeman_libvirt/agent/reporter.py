"""Reports to a hub: when something has changed, and every few seconds all the same."""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from hypeman_libvirt.agent.enrolment import Membership, MembershipFile
from hypeman_libvirt.agent.hub_client import HubAnswer, HubClient
from hypeman_libvirt.agent.state import HostState, StateReader, difference
from hypeman_libvirt.devices.errors import DeviceError, HostUnreachableError
from hypeman_libvirt.devices.event_feed import EventFeed
from hypeman_libvirt.devices.model import Event
from hypeman_libvirt.devices.ports import Locks
from hypeman_libvirt.hub.protocol import (
    ENROL_PATH,
    HEARTBEAT,
    REPORT_PATH,
    Enrolled,
    Enrolment,
    Report,
    ReportedEvent,
)
from hypeman_libvirt.hub.rules import pause_after
from hypeman_libvirt.hub.tokens import new_key
from hypeman_libvirt.rest.schemas import EventOut, to_json
from hypeman_libvirt.version import __version__

_log: Final = logging.getLogger(__name__)
_LOCK: Final = "hub reporter"
_MOST_EVENTS: Final = 500
"""Events that wait for a hub that does not answer; older ones are dropped."""
_ASK_AGAIN: Final = 60.0
"""Seconds after which a hub that has refused this agent is asked again."""
_SETTLE: Final = 0.05
"""Seconds in which changes in a row become one report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """Where the hub is, and how it reaches this agent.

    Attributes:
        hub: URL of the hub.
        url: Of this agent, as the hub reaches it.
        token: One-time token; None once this host is enrolled.
    """

    hub: str
    url: str
    token: str | None


@dataclass(slots=True)
class _Progress:
    """How far the reports of this run have come."""

    epoch: str
    sequence: int = 0
    state: HostState | None = None
    failures: int = 0


class Reporter:
    """Enrols this host and reports on it, on a thread of its own.

    One process of a host does so; the others wait until it has ended.
    """

    def __init__(
        self,
        settings: AgentSettings,
        client: HubClient,
        membership: MembershipFile,
        host_key: Callable[[], str],
        locks: Locks,
        *,
        epoch: str | None = None,
        chance: random.Random | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Report nothing yet.

        Args:
            settings: Where the hub is.
            client: Speaks to it.
            membership: Where the agent's key is stored.
            host_key: Returns the key of the host.
            locks: So that one process reports alone.
            epoch: Name of this run, which no other has; None for a new one.
            chance: Spreads agents that come back together.
            clock: Seconds since 1970.
            monotonic: Seconds that never go back.
        """
        self._settings = settings
        self._client = client
        self._file = membership
        self._host_key = host_key
        self._locks = locks
        self._chance = chance or random.Random()  # noqa: S311  # nosec B311 - no secret
        self._clock = clock
        self._monotonic = monotonic
        self._resources_due = 0.0
        self._membership: Membership | None = None
        self._progress = _Progress(epoch or secrets.token_hex(16))
        self._events: deque[ReportedEvent] = deque(maxlen=_MOST_EVENTS)
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._reader: StateReader | None = None

    def read_secret(self) -> str | None:
        """Return what signs the hub's tokens; None before the enrolment."""
        membership = self._membership or self._own_membership()
        return membership.secret if membership else None

    def wake(self, *_: object) -> None:
        """Report soon: something has changed."""
        self._wake.set()

    def start(self, reader: StateReader, feed: EventFeed) -> None:
        """Begin to report.

        Args:
            reader: Reads the host.
            feed: Says what happens on it.
        """
        self._reader = reader
        for run in (self._run, lambda: self._follow(feed)):
            thread = threading.Thread(target=run, name="reporter", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Report no more; a hub that does not answer is not awaited long."""
        self._ended.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(1.0)

    def collect(self, event: Event) -> None:
        """Take an event of the host down, for the next report."""
        body = to_json(EventOut.of(event))
        written = b'{"id": "%b", "body": %b}' % (event.id.encode(), body)
        self._events.append(ReportedEvent.model_validate_json(written))
        self._wake.set()

    def report(self, reader: StateReader) -> float:
        """Report once; return the seconds until the next report is due.

        Raises:
            DeviceError: The registry cannot be read, or the hub gave no answer.
        """
        membership = self._enrolled()
        if membership is None:
            return self._ask_later()
        progress, events = self._progress, list(self._events)
        state, problem = self._read(reader)
        changes: dict[str, Any] = difference(progress.state, state) if state else {}
        progress.sequence += 1
        report = Report(
            host=membership.host,
            epoch=progress.epoch,
            sequence=progress.sequence,
            full=progress.state is None and state is not None,
            sent_at=self._clock(),
            version=__version__,
            url=self._settings.url,
            problem=problem,
            events=events,
            **changes,
        )
        before, progress.state = progress.state, None  # until it is known that the hub has it
        answer = self._client.post(REPORT_PATH, report, membership.key)
        if answer.status == 200:  # noqa: PLR2004 - HTTP's
            progress.state, progress.failures = state or before, 0
            for _ in events:
                self._events.popleft()
            return float(answer.body.get("heartbeat", HEARTBEAT)) * self._chance.uniform(0.8, 1.0)
        return self._refused(answer)

    def _read(self, reader: StateReader) -> tuple[HostState | None, str | None]:
        """Read the host; without an answer of libvirt only the problem is reported."""
        now, due = self._monotonic(), self._resources_due
        try:
            state = reader.read(self._progress.state, with_resources=now >= due)
            self._resources_due = now + HEARTBEAT / 2 if now >= due else due
        except DeviceError as error:
            return None, error.code
        else:
            return state, None

    def _refused(self, answer: HubAnswer) -> float:
        """Return when to report again after a refusal."""
        if answer.code == "report_gap":
            return 0.0
        if answer.status in {401, 403} or answer.code == "duplicate_host":
            _log.error("the hub refuses this host: %s", answer.message)
            return self._ask_later()
        raise HostUnreachableError(f"the hub cannot take a report: {answer.message}")

    def _ask_later(self) -> float:
        """Return when the hub is asked again: an operator has to do something first."""
        self._progress.failures += 1
        return self._chance.uniform(0.5, 1.0) * _ASK_AGAIN

    def _enrolled(self) -> Membership | None:
        """Return the membership of this host, and enrol it first where there is none."""
        self._membership = self._own_membership() or self._enrol()
        return self._membership

    def _own_membership(self) -> Membership | None:
        """Return what was stored for this very hub and host."""
        stored = self._file.read()
        if stored is None or stored.hub != self._settings.hub:
            return None
        return stored if stored.host == self._host_key() else None

    def _enrol(self) -> Membership | None:
        token, host = self._settings.token, self._host_key()
        if token is None:
            _log.error(
                "host %s is not enrolled at %s: POST /hosts there makes a one-time token; set it "
                "as hub_token",
                host,
                self._settings.hub,
            )
            return None
        key = new_key()
        enrolment = Enrolment(
            token=token, host=host, url=self._settings.url, agent_key=key, version=__version__
        )
        answer = self._client.post(ENROL_PATH, enrolment)
        if answer.status != 200:  # noqa: PLR2004 - HTTP's
            _log.error("the hub does not enrol this host: %s", answer.message)
            return None
        enrolled = Enrolled.model_validate(answer.body)
        membership = Membership(self._settings.hub, host, enrolled.name, key, enrolled.secret)
        self._file.write(membership)
        _log.info("enrolled as host %s at %s", enrolled.name, self._settings.hub)
        return membership

    def _run(self) -> None:
        reader = self._reader
        with ExitStack() as held:
            while not self._ended.is_set() and reader is not None:
                try:
                    held.enter_context(self._locks.hold([_LOCK]))
                    break
                except DeviceError:  # another process reports, or the files cannot be made
                    self._ended.wait(_ASK_AGAIN / 10)
            while not self._ended.is_set() and reader is not None:
                self._wake.clear()  # before the host is read: what changes later wakes again
                pause = self._report_logged(reader)
                if self._progress.failures:
                    self._ended.wait(pause)  # whatever changes meanwhile
                elif self._wake.wait(pause):
                    self._ended.wait(_SETTLE)
        self._client.close()

    def _report_logged(self, reader: StateReader) -> float:
        try:
            return self.report(reader)
        except DeviceError as error:
            _log.warning("not reported: %s", error.message)
        except Exception:  # noqa: BLE001 - the thread must not end
            _log.exception("not reported")
        self._progress.failures += 1
        return pause_after(self._progress.failures, HEARTBEAT, self._chance)

    def _follow(self, feed: EventFeed) -> None:
        """Collect the events of the host, as long as this agent runs."""
        last: str | None = None
        while not self._ended.is_set():
            try:
                with feed.listen(last) as events:
                    for event in events:
                        if self._ended.is_set():
                            return
                        if event is not None:
                            last = event.id
                            self.collect(event)
            except DeviceError as error:
                _log.info("events are not collected now: %s", error.message)
            self._ended.wait(1.0)
