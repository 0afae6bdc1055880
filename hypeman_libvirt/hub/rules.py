"""Rules of a hub that open nothing: references, positions of reports, what may be forwarded."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from hypeman_libvirt.devices.errors import (
    AmbiguousNameError,
    ClaimedError,
    ErrorDetail,
    ForbiddenError,
    NotFoundError,
)
from hypeman_libvirt.devices.model import Caller
from hypeman_libvirt.hub.model import Found, Position

Verdict: TypeAlias = Literal["apply", "repeated", "gap", "duplicate"]

_REMEMBERED_EPOCHS: Final = 20
_LONGEST_PAUSE: Final = 60.0
_MOST_CANDIDATES: Final = 20


def split_reference(reference: str) -> tuple[str, str | None]:
    """Split ``name@host``; without a host it may be any."""
    name, at, host = reference.rpartition("@")
    return (name, host) if at else (reference, None)


def choose(reference: str, found: Sequence[Found]) -> Found:
    """Return the one device that a reference names.

    Args:
        reference: As the client wrote it.
        found: All that it could mean, of equal rank.

    Raises:
        NotFoundError: None.
        AmbiguousNameError: Several.
    """
    if not found:
        raise NotFoundError(
            f"no device {reference[:160]!r} is registered on any host",
            hint="GET /devices lists those that are",
        )
    if len(found) == 1:
        return found[0]
    raise ambiguous(reference, [each.qualified for each in found])


def ambiguous(reference: str, candidates: Sequence[str]) -> AmbiguousNameError:
    """Name the candidates, each as it can be written."""
    return AmbiguousNameError(
        f"{len(candidates)} hosts have {reference[:160]!r}",
        hint=f"write {candidates[0]}, for one of them",
        details=[ErrorDetail("candidate", each) for each in candidates[:_MOST_CANDIDATES]],
    )


def check_host_allowed(host_name: str, allowed: Collection[str] | None) -> None:
    """Let pass a caller whose token is good for the host.

    Raises:
        ForbiddenError: Its ``hosts`` claim does not name it.
    """
    if allowed is not None and host_name not in allowed:
        raise ForbiddenError(
            f"the token is not good for host {host_name}", hint="its claim 'hosts' names others"
        )


def check_unclaimed(device: Found, caller: Caller) -> None:
    """Let pass whoever has claimed the device, and everybody if nobody has.

    Raises:
        ClaimedError: It is in a claim of somebody else.
    """
    if device.claim is not None and device.claimed_by != caller.subject:
        raise ClaimedError(
            f"{device.qualified} belongs to claim {device.claim} of {device.claimed_by!r}",
            hint="claim devices of your own with POST /devices/claims",
        )


def judge_report(known: Position, *, epoch: str, sequence: int, full: bool) -> Verdict:
    """Say what becomes of a report.

    A run of an agent ends when the next one reports. If it reports again nevertheless, then there
    are two machines with one key: a cloned image.
    """
    if epoch in known.ended:
        return "duplicate"
    if epoch == known.epoch and sequence <= known.sequence:
        return "repeated"
    if full:
        return "apply"
    follows = epoch == known.epoch and sequence == known.sequence + 1
    return "apply" if follows else "gap"


def advance(known: Position, *, epoch: str, sequence: int) -> Position:
    """Return the position after a report that was applied."""
    ended = known.ended
    if known.epoch not in {None, epoch}:
        ended = (*ended, str(known.epoch))[-_REMEMBERED_EPOCHS:]
    return Position(epoch, sequence, ended)


def pause_after(failures: int, heartbeat: float, chance: random.Random) -> float:
    """Return the seconds that an agent waits after so many failures in a row.

    Exponential with full jitter, so that a thousand agents do not come back together.

    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return chance.uniform(0.0, min(_LONGEST_PAUSE, heartbeat * 2.0 ** min(failures - 1, 8)))


def sum_resources(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up what ``GET /resources`` of several hosts says."""
    kinds = ("cpu", "memory", "disk", "network")
    summed: dict[str, Any] = {kind: _sum(kind, reports) for kind in kinds}
    gpus = [each["gpu"] for each in reports if each.get("gpu")]
    summed["gpu"] = _sum_gpus(gpus) if gpus else None
    for name in ("allocations", "instances"):
        summed[name] = [one for each in reports for one in each.get(name, [])]
    return summed


def _sum(kind: str, reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    figures = ("capacity", "effective_limit", "allocated", "available")
    parts = [each[kind] for each in reports if kind in each]
    return {
        "type": kind,
        **{name: sum(part.get(name, 0) for part in parts) for name in figures},
        "oversub_ratio": 1.0,
    }


def _sum_gpus(gpus: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up GPUs; a fleet with any vGPU says so, for only then there are profiles."""
    modes = {each["mode"] for each in gpus}
    summed: dict[str, Any] = {"mode": "vgpu" if "vgpu" in modes else "passthrough"}
    counts = {name for each in gpus for name, value in each.items() if isinstance(value, int)}
    summed |= {name: sum(each.get(name, 0) for each in gpus) for name in sorted(counts)}
    devices = [one for each in gpus for one in each.get("devices", [])]
    profiles: dict[str, dict[str, Any]] = {}
    for one in (one for each in gpus for one in each.get("profiles", [])):
        known = profiles.setdefault(one["name"], {**one, "available": 0})
        known["available"] += one["available"]
    lists = {"devices": devices, "profiles": list(profiles.values())}
    return summed | {name: each for name, each in lists.items() if each}
