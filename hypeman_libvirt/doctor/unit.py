"""Reads what systemd says of the service's unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hypeman_libvirt.defaults import UNIT
from hypeman_libvirt.doctor.facts import Unit

Run = Callable[[Sequence[str]], str | None]
"""Runs a program and returns what it printed; None where there is no such program."""

NVIDIA_VGPU_MANAGER: Final = "nvidia-vgpu-mgr.service"
"""NVIDIA's Virtual GPU Manager: without it no domain starts with one of its vGPUs."""
_PROPERTIES: Final = (
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "NRestarts",
    "ActiveExitTimestamp",
    "StateChangeTimestamp",
)


def read_unit(run: Run, name: str = UNIT) -> Unit | None:
    """Read the unit's state and the last line of its log.

    Returns:
        None where no systemd runs, or where it does not know the unit.

    Source: systemctl(1), show; org.freedesktop.systemd1(5).
    """
    printed = run(["systemctl", "show", name, f"--property={','.join(_PROPERTIES)}"]) or ""
    pairs = (line.partition("=") for line in printed.splitlines())
    properties = {key: value for key, _, value in pairs}
    if properties.get("LoadState", "not-found") == "not-found":
        return None
    return Unit(
        name=name,
        active=properties.get("ActiveState", ""),
        detail=properties.get("SubState", ""),
        enabled=properties.get("UnitFileState", ""),
        restarts=int(properties.get("NRestarts") or 0),
        since=properties.get("ActiveExitTimestamp") or properties.get("StateChangeTimestamp", ""),
        last_line=_last_line(run, name),
    )


def _last_line(run: Run, name: str) -> str | None:
    """Return the last line that the service itself wrote, not what systemd says of it."""
    asked = ["journalctl", f"_SYSTEMD_UNIT={name}", "--lines=1", "--output=cat", "--no-pager"]
    lines = (run([*asked, "--quiet"]) or "").strip().splitlines()
    return lines[-1] if lines else None
