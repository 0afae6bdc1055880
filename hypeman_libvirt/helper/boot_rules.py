"""The udev rules that the host applies at boot: written down, read, and stored in one file.

Each rule is guarded by address, ids and, where it is known, the chain of bridges: other hardware
at the same address is left alone. Nothing is bound by ids, as ``new_id`` would: that takes every
identical card.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.errors import HelperFailedError
from hypeman_libvirt.helper.protocol import RuleBody

RULES: Final = Path("etc/udev/rules.d/70-hypeman-libvirt.rules")
"""Below the root; before 80-drivers.rules, which loads the host's drivers."""
_HEADER: Final = (
    "# Written by hypeman-libvirt-helper, which loses what is changed by hand.\n"
    "# hypeman-libvirt persist --show prints what should stand here.\n"
)
_OF_RULE: Final = "# {"
_MODE: Final = 0o644


def format_rules(rules: Sequence[BootRule]) -> str:
    """Write the file; each rule is preceded by itself as JSON, in a comment."""
    ordered = sorted(rules, key=lambda rule: rule.address)
    return "\n".join([_HEADER, *map(_format, ordered)])


def parse_rules(text: str) -> Sequence[BootRule]:
    """Read what ``format_rules`` has written.

    Raises:
        HelperFailedError: A rule is not as we write them.
    """
    lines = [line for line in text.splitlines() if line.startswith(_OF_RULE)]
    try:
        return [RuleBody.model_validate_json(line.removeprefix("# ")).rule() for line in lines]
    except ValidationError as error:
        raise HelperFailedError(
            f"/{RULES} was changed by hand and cannot be read",
            hint="remove it; the service writes what is persistent anew when it starts",
        ) from error


class BootRuleFiles:
    """The file of boot rules."""

    def __init__(self, root: Path = Path("/")) -> None:
        """Have the file below ``root``."""
        self._file = root / RULES

    def read(self) -> Sequence[BootRule]:
        """Return the rules, by address; none without the file.

        Raises:
            HelperFailedError: The file cannot be read.
        """
        try:
            return parse_rules(self._file.read_text(encoding="ascii", errors="replace"))
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise HelperFailedError(f"{self._file} cannot be read: {error.strerror}") from error

    def put(self, rule: BootRule) -> None:
        """Add a rule, in place of an earlier one of the address.

        Raises:
            HelperFailedError: The file cannot be read or written; it is as it was.
        """
        with self._changing() as rules:
            rules[rule.address] = rule

    def remove(self, address: PciAddress) -> None:
        """Remove the rule of an address, if there is one.

        Raises:
            HelperFailedError: The file cannot be read or written; it is as it was.
        """
        with self._changing() as rules:
            rules.pop(address, None)

    @contextmanager
    def _changing(self) -> Iterator[dict[PciAddress, BootRule]]:
        """Lock the directory, and replace the file as a whole where a rule has changed."""
        try:
            directory = os.open(self._file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise HelperFailedError(f"{self._file.parent}: {error.strerror}") from error
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            before = {rule.address: rule for rule in self.read()}
            rules = dict(before)
            yield rules
            if rules != before:
                self._replace(rules, directory)
        except OSError as error:
            raise HelperFailedError(f"{self._file} cannot be written: {error.strerror}") from error
        finally:
            os.close(directory)

    def _replace(self, rules: Mapping[PciAddress, BootRule], directory: int) -> None:
        new = self._file.with_suffix(".new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(descriptor, _MODE)
            file.write(format_rules(list(rules.values())))
            file.flush()
            os.fsync(descriptor)
        new.rename(self._file)
        os.fsync(directory)


def _format(rule: BootRule) -> str:
    lines = _vfio_lines(rule) if rule.virtual_functions is None else _function_lines(rule)
    record = RuleBody.of(rule).model_dump_json(exclude_none=True)
    return "\n".join([f"# {record}", *lines, ""])


def _vfio_lines(rule: BootRule) -> Sequence[str]:
    """Reserve the function for vfio-pci, and bind it, if no driver has it.

    Loading vfio-pci binds what is reserved for it; where it is loaded, the probe does. Neither
    takes a function from a driver that has it.

    Source: the kernel's Documentation/ABI/testing/sysfs-bus-pci, driver_override; udev(7).
    """
    acts = (
        'ATTR{driver_override}="vfio-pci"',
        'ATTR{[subsystem/pci]drivers_probe}="$kernel"',
        'RUN{builtin}+="kmod load vfio-pci"',
    )
    return [", ".join(['ACTION=="add"', *_guards(rule), *acts])]


def _function_lines(rule: BootRule) -> Sequence[str]:
    """Enable virtual functions once the host driver has the function."""
    acts = (
        f'ATTR{{sriov_drivers_autoprobe}}="{int(rule.autoprobe)}"',
        f'ATTR{{sriov_numvfs}}="{rule.virtual_functions}"',
    )
    return [", ".join(['ACTION=="bind"', 'DRIVER!="vfio-pci"', *_guards(rule), *acts])]


def _guards(rule: BootRule) -> Sequence[str]:
    guards = [
        'SUBSYSTEM=="pci"',
        f'KERNEL=="{rule.address}"',
        f'ATTR{{vendor}}=="0x{rule.vendor_id}"',
        f'ATTR{{device}}=="0x{rule.device_id}"',
    ]
    if rule.topology is not None:
        guards.append(f'DEVPATH=="{_device_path(rule.topology)}"')
    return guards


def _device_path(topology: str) -> str:
    """Turn ``pci0000:00/08.0/00.0`` to the pattern ``/devices/pci0000:00/0000:00:08.0/…``.

    Bus numbers below the root are open: other cards shift them.
    """
    domain, parts = "", ["/devices"]
    for place in topology.split("/"):
        if place.startswith("pci"):
            domain = place.removeprefix("pci").rpartition(":")[0]
            parts.append(place)
        else:
            parts.append(f"{domain}:??:{place}")
    return "/".join(parts)
