"""Which host registrations belong to, also where libvirt makes its UUID up anew at each start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MachineId:
    """What names the machine that the service runs on, as long as its system is installed.

    Attributes:
        text: Of ``/etc/machine-id``: 32 hex digits.
        key: Made of it for this service alone, for machine-id(5) asks not to publish the text.
    """

    text: str
    key: str


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """What is known of a host, as of one connection to its libvirt.

    Without a UUID from the firmware libvirt makes one up at each start.

    Attributes:
        uri: Of the connection.
        uuid: In libvirt's capabilities; None for hosts that have none, such as test hosts.
        firmware_uuid: In the SMBIOS as libvirt reads it; None where libvirt cannot read it.
        machine: None where the service is not on the host.

    Source: libvirt's src/util/viruuid.c, virGetHostUUID().
    """

    uri: str
    uuid: str | None
    firmware_uuid: str | None = None
    machine: MachineId | None = None

    @property
    def key(self) -> str:
        """What registrations are keyed by: the UUID if it lasts, else the machine, else the URI.

        It is the same whoever asks: nothing that only root may read decides.
        """
        if self.uuid is None:
            return self.uri
        if self.machine is None or self._lasts:
            return self.uuid
        return self.machine.key

    @property
    def aliases(self) -> frozenset[str]:
        """Other keys under which registrations of this very host may have been stored."""
        machine = self.machine and self.machine.key
        return frozenset(each for each in (self.uuid, machine) if each) - {self.key}

    @property
    def is_made_up(self) -> bool:
        """Whether libvirt has certainly made the UUID up: the firmware has another one, or none."""
        return self.firmware_uuid is not None and not self._lasts

    @property
    def _lasts(self) -> bool:
        plain = (self.uuid or "").replace("-", "")
        return self.uuid == self.firmware_uuid or bool(self.machine and plain == self.machine.text)
