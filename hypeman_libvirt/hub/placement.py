"""Where a claim could be met, and how near it came where it could not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias

from hypeman_libvirt.devices.errors import ErrorDetail, NoCapacityError
from hypeman_libvirt.hub.model import ClaimSpec, Pool

Spread: TypeAlias = Literal["fleet", "host", "numa"]

_MOST_POOLS: Final = 10


def spread_of(spec: ClaimSpec) -> Spread:
    """Say within what all devices of a claim must be."""
    if spec.same_numa:
        return "numa"
    return "host" if spec.same_host or spec.instance is not None else "fleet"


def choose_pools(spec: ClaimSpec, pools: Iterable[Pool]) -> Sequence[Pool]:
    """Return the pools that can meet a claim, the tightest first, so that large ones stay whole."""
    fitting = [each for each in pools if each.free >= spec.count]
    return sorted(fitting, key=lambda each: (each.free, each.host_name or "", each.numa_node or 0))


def refuse(
    spec: ClaimSpec, pools: Sequence[Pool], failures: Sequence[ErrorDetail]
) -> NoCapacityError:
    """Say how near the fleet comes to a claim, and what is in the way.

    Args:
        spec: What was asked for.
        pools: All of them.
        failures: What agents said of devices that looked free.
    """
    nearest = sorted(pools, key=lambda each: (-each.free, each.host_name or ""))[:_MOST_POOLS]
    best = nearest[0].free if nearest else 0
    where = {"fleet": "in the fleet", "host": "on any one host", "numa": "at any one NUMA node"}
    wanted = f"{spec.count} {_kind(spec)} {'is' if spec.count == 1 else 'are'} not free"
    return NoCapacityError(
        f"{wanted} {where[spread_of(spec)]}; the nearest has {best}",
        hint="ask for fewer, or release a claim; the details say what is in the way",
        details=[*failures, *(ErrorDetail("nearest", _describe(each)) for each in nearest)],
    )


def _kind(spec: ClaimSpec) -> str:
    ids = ":".join(filter(None, (spec.vendor_id, spec.device_id)))
    tags = " ".join(f"{key}={value}" for key, value in sorted(spec.tags.items()))
    words = [ids, tags, spec.profile, spec.type]
    return " ".join([*filter(None, words), "device" if spec.count == 1 else "devices"])


def _describe(pool: Pool) -> str:
    where = pool.host_name or "all hosts"
    if pool.numa_node is not None:
        where += f", NUMA node {pool.numa_node}"
    reasons = {
        "attached to domains": pool.attached,
        "claimed": pool.claimed,
        "on hosts that are drained, down or have a problem": pool.elsewhere,
        "missing, changed or quarantined": pool.unfit,
    }
    others = [f"{count} {reason}" for reason, count in reasons.items() if count]
    return f"{where}: {', '.join([f'{pool.free} free', *others])}"
