"""The agent's own key, and what the hub gave it when it enrolled: a file beside the registry."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from hypeman_libvirt.devices.errors import RegistryUnavailableError

FILE: Final = "hub.json"


@dataclass(frozen=True, slots=True)
class Membership:
    """That this host belongs to a fleet.

    Attributes:
        hub: URL of the hub.
        host: Key of the host that was enrolled.
        name: Of the host in the fleet.
        key: Of the agent; nobody else has it.
        secret: Signs the tokens with which hubs call this agent.
    """

    hub: str
    host: str
    name: str
    key: str
    secret: str


class MembershipFile:
    """Stores the membership, mode 0600."""

    def __init__(self, directory: Path) -> None:
        """Store it in this directory."""
        self._path = directory / FILE

    def read(self) -> Membership | None:
        """Return the membership; None without one.

        Raises:
            RegistryUnavailableError: The file is there and cannot be read.
        """
        try:
            return Membership(**json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise RegistryUnavailableError(
                f"{self._path} cannot be read", hint="remove it to enrol this host anew"
            ) from error

    def write(self, membership: Membership) -> None:
        """Store it; on return it survives a power loss.

        Raises:
            RegistryUnavailableError: The file cannot be written.
        """
        new = self._path.with_name(f"{FILE}.new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(asdict(membership), file)
                file.flush()
                os.fsync(descriptor)
            new.replace(self._path)
        except OSError as error:
            raise RegistryUnavailableError(
                f"{self._path} cannot be written: {error.strerror}"
            ) from error
