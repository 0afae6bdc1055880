"""What some hub has to do now and then: claims whose time is over, events that are old."""

from __future__ import annotations

import logging
import random
import threading
from datetime import timedelta
from typing import Final

from sqlalchemy import delete, select

from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.hub.claiming import Claiming
from hypeman_libvirt.hub.database import Database
from hypeman_libvirt.hub.schema import enrolment_tokens, events

_log: Final = logging.getLogger(__name__)
_INTERVAL: Final = 5.0
_EVENTS_STAY: Final = timedelta(days=7)
_AT_ONCE: Final = 10_000


class Housekeeping:
    """Tidies up on a thread; any number of hubs may do so at once."""

    def __init__(self, database: Database, claiming: Claiming) -> None:
        """Tidy up here, once it is started."""
        self._database = database
        self._claiming = claiming
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; a call to an agent that is under way is not awaited long."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_INTERVAL)

    def tidy_up(self) -> None:
        """Give back what is overdue, and delete what is old."""
        while not self._ended.is_set() and self._claiming.release_overdue():
            pass
        now = self._database.now()
        old = (
            select(events.c.sequence)
            .where(events.c.at < now - _EVENTS_STAY)
            .order_by(events.c.sequence)
            .limit(_AT_ONCE)
        )
        with self._database.write() as connection:
            connection.execute(delete(events).where(events.c.sequence.in_(old)))
            stale = enrolment_tokens.c.expires_at < now - _EVENTS_STAY
            connection.execute(delete(enrolment_tokens).where(stale))

    def _run(self) -> None:
        chance = random.Random()  # noqa: S311  # nosec B311 - no secret
        while not self._ended.wait(chance.uniform(0.5, 1.5) * _INTERVAL):
            try:
                self.tidy_up()
            except DeviceError as error:
                _log.warning("housekeeping waits: %s", error.message)
            except Exception:  # noqa: BLE001 - the thread must not end
                _log.exception("housekeeping failed")
