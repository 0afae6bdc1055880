"""A hub, as its HTTP layer sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypeman_libvirt.hub.claim_store import ClaimStore
from hypeman_libvirt.hub.claiming import Claiming
from hypeman_libvirt.hub.database import Database
from hypeman_libvirt.hub.followers import Announcements, FleetFeed
from hypeman_libvirt.hub.forwarding import Forwarder
from hypeman_libvirt.hub.hosts import Hosts
from hypeman_libvirt.hub.housekeeping import Housekeeping
from hypeman_libvirt.hub.listing import Listing
from hypeman_libvirt.hub.reports import Reports
from hypeman_libvirt.hub.tokens import TokenMaker


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """The use cases, each a method of the object that implements it.

    Attributes:
        database: Has all the state.
        listing: Answers lists.
        hosts: Enrols, drains and removes hosts.
        reports: Stores what agents say.
        forwarder: Asks the agent that has a device.
        claims: Has the claims.
        claiming: Makes and ends them.
        feed: Streams events.
        tokens: Makes the secrets of agents.
        announcements: Wake who follows events.
        housekeeping: Gives back what is overdue.
        close_all: Closes what the hub was built on.
    """

    database: Database
    listing: Listing
    hosts: Hosts
    reports: Reports
    forwarder: Forwarder
    claims: ClaimStore
    claiming: Claiming
    feed: FleetFeed
    tokens: TokenMaker
    announcements: Announcements
    housekeeping: Housekeeping
    close_all: Callable[[], None]

    def ping(self) -> None:
        """Raise if the database does not answer.

        Raises:
            RegistryUnavailableError: It does not.
        """
        self.database.ping()

    def start(self) -> None:
        """Begin to listen to the database, and to tidy up."""
        self.announcements.start()
        self.housekeeping.start()

    def close(self) -> None:
        """End every stream and thread."""
        self.announcements.close()
        self.housekeeping.close()
        self.close_all()
