"""Rules of a hub that need neither database nor agents."""

from __future__ import annotations

import random

import pytest

from hypeman_libvirt.devices.errors import (
    AmbiguousNameError,
    ClaimedError,
    ForbiddenError,
    NotFoundError,
)
from hypeman_libvirt.devices.model import Caller
from hypeman_libvirt.hub import placement, rules
from hypeman_libvirt.hub.model import ClaimSpec, DeviceKey, Found, Pool, Position
from tests.world import OPERATOR

EPOCH = "this run"


def found(host: str, claimed_by: str | None = None) -> Found:
    claim = None if claimed_by is None else "claim1"
    seen = "2025-01-15T10:00:00Z"
    return Found(DeviceKey(host, "id"), host, "l4", claim, claimed_by, "{}", seen)  # type: ignore[arg-type]  # not read


def pool(host: str | None, free: int, **others: int) -> Pool:
    counts = {"attached": 0, "claimed": 0, "elsewhere": 0, "unfit": 0, **others}
    return Pool(host=host, host_name=host, numa_node=None, free=free, **counts)


@pytest.mark.parametrize(
    ("reference", "split"),
    [
        ("l4", ("l4", None)),
        ("l4@alpha", ("l4", "alpha")),
        ("0000:a2:00.0@alpha", ("0000:a2:00.0", "alpha")),
        ("l4@", ("l4", "")),
        ("a@b@alpha", ("a@b", "alpha")),
    ],
)
def test_a_reference_may_name_its_host(reference: str, split: tuple[str, str | None]) -> None:
    assert rules.split_reference(reference) == split


def test_a_reference_means_one_device_or_is_refused() -> None:
    assert rules.choose("l4", [found("alpha")]) == found("alpha")
    with pytest.raises(NotFoundError):
        rules.choose("l4", [])
    with pytest.raises(AmbiguousNameError) as refused:
        rules.choose("l4", [found("alpha"), found("beta")])
    assert [each.message for each in refused.value.details] == ["l4@alpha", "l4@beta"]


def test_a_claimed_device_is_its_claimers() -> None:
    rules.check_unclaimed(found("alpha"), OPERATOR)
    rules.check_unclaimed(found("alpha", "operator"), OPERATOR)
    with pytest.raises(ClaimedError):
        rules.check_unclaimed(found("alpha", "ann"), OPERATOR)
    with pytest.raises(ClaimedError):
        rules.check_unclaimed(found("alpha", "ann"), Caller(None))


def test_a_token_may_be_limited_to_hosts() -> None:
    rules.check_host_allowed("alpha", None)
    rules.check_host_allowed("alpha", {"alpha"})
    with pytest.raises(ForbiddenError):
        rules.check_host_allowed("alpha", {"beta"})
    with pytest.raises(ForbiddenError):
        rules.check_host_allowed("alpha", frozenset())


@pytest.mark.parametrize(
    ("epoch", "sequence", "full", "verdict"),
    [
        (EPOCH, 8, False, "apply"),
        (EPOCH, 7, False, "repeated"),
        (EPOCH, 7, True, "repeated"),
        (EPOCH, 5, True, "repeated"),
        (EPOCH, 9, False, "gap"),
        (EPOCH, 9, True, "apply"),
        ("the next run", 1, True, "apply"),
        ("the next run", 1, False, "gap"),
        ("an earlier run", 9, True, "duplicate"),
        ("an earlier run", 9, False, "duplicate"),
    ],
)
def test_reports_are_applied_once_and_in_their_order(
    epoch: str, sequence: int, full: bool, verdict: rules.Verdict
) -> None:
    known = Position(EPOCH, 7, ("an earlier run",))
    assert rules.judge_report(known, epoch=epoch, sequence=sequence, full=full) == verdict


def test_the_runs_of_an_agent_are_remembered_but_not_for_ever() -> None:
    position = Position(None, 0, ())
    for number in range(100):
        position = rules.advance(position, epoch=f"run {number}", sequence=1)
        position = rules.advance(position, epoch=f"run {number}", sequence=2)
    assert (position.epoch, position.sequence) == ("run 99", 2)
    assert position.ended[-1] == "run 98"
    assert len(position.ended) == 20


def test_a_thousand_agents_do_not_come_back_together() -> None:
    pauses = [rules.pause_after(3, 10.0, random.Random(seed)) for seed in range(1000)]  # noqa: S311
    busiest = max(sum(start <= each < start + 1 for each in pauses) for start in range(40))
    assert busiest < 60
    assert max(pauses) > 35
    assert all(rules.pause_after(99, 10.0, random.Random(seed)) <= 60 for seed in range(9))  # noqa: S311


def test_the_tightest_pool_that_fits_comes_first() -> None:
    pools = [pool("alpha", 8), pool("beta", 2), pool("gamma", 1), pool("delta", 2)]
    chosen = placement.choose_pools(ClaimSpec(2, same_host=True), pools)
    assert [each.host for each in chosen] == ["beta", "delta", "alpha"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ClaimSpec(1), "1 device is not free in the fleet; the nearest has 0"),
        (
            ClaimSpec(2, type="gpu", same_numa=True),
            "2 gpu devices are not free at any one NUMA node; the nearest has 0",
        ),
        (
            ClaimSpec(2, vendor_id="10de", device_id="2330", tags={"a": "b"}, same_host=True),
            "2 10de:2330 a=b devices are not free on any one host; the nearest has 0",
        ),
    ],
)
def test_a_refusal_names_what_was_asked_for(spec: ClaimSpec, message: str) -> None:
    assert placement.refuse(spec, [], []).finding == message


def test_a_refusal_names_the_nearest_and_what_is_in_the_way() -> None:
    pools = [pool("alpha", 0, elsewhere=4), pool("beta", 1, attached=2, claimed=1, unfit=3)]
    refusal = placement.refuse(ClaimSpec(2, same_host=True), pools, [])
    assert [each.message for each in refusal.details] == [
        "beta: 1 free, 2 attached to domains, 1 claimed, 3 missing, changed or quarantined",
        "alpha: 0 free, 4 on hosts that are drained, down or have a problem",
    ]


def test_resources_are_added_up() -> None:
    kinds = {
        kind: {"capacity": 4, "effective_limit": 4, "allocated": 1, "available": 3}
        for kind in ("cpu", "memory", "disk", "network")
    }
    profile = {"name": "A40-8Q", "framebuffer_mb": 8192, "available": 2}
    vgpu = {"mode": "vgpu", "total_slots": 4, "used_slots": 2, "profiles": [profile]}
    whole = {"mode": "passthrough", "total_slots": 1, "used_slots": 0, "devices": [{"name": "L4"}]}
    summed = rules.sum_resources(
        [
            {**kinds, "gpu": vgpu, "allocations": [{"instance_id": "x"}]},
            {**kinds, "gpu": whole},
            {**kinds, "gpu": vgpu},
        ]
    )
    assert summed["cpu"] == {
        "type": "cpu",
        "capacity": 12,
        "effective_limit": 12,
        "allocated": 3,
        "available": 9,
        "oversub_ratio": 1.0,
    }
    assert summed["gpu"] == {
        "mode": "vgpu",
        "total_slots": 9,
        "used_slots": 4,
        "devices": [{"name": "L4"}],
        "profiles": [{**profile, "available": 4}],
    }
    assert summed["allocations"] == [{"instance_id": "x"}]
    assert rules.sum_resources([])["gpu"] is None
