"""What must hold after each step of the model: its own few rules, and none of the package's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hypeman_libvirt.devices.model import Preflight
from tests.trust.model_host import CRITICAL, DRIVERS, GROUPS, Scene

CODES: Final[Mapping[str, frozenset[str]]] = {
    "endpoint": frozenset({"identity_changed", "not_assignable"}),
    "iommu": frozenset({"iommu_unavailable"}),
    "identity": frozenset({"identity_changed"}),
    "health": frozenset({"quarantined"}),
    "critical": frozenset({"critical_device"}),
    "in_use": frozenset({"in_use"}),
    "sriov": frozenset({"sriov_active", "vfio_unavailable"}),
    "group": frozenset({"iommu_group_conflict"}),
    "vfio": frozenset({"vfio_unavailable"}),
}
"""What an operation answers that a check of preflight has stopped."""
NEVER: Final = frozenset({"internal_error", "busy", "timeout"})
"""What nobody is answered while one operation at a time runs and nothing hangs."""


class Violation(Exception):  # noqa: N818
    """Something does not hold."""


@dataclass(frozen=True)
class Answer:
    """What an operation answered: the code of a refusal, ``killed``, or None and a result."""

    code: str | None
    message: str = ""
    result: object = None


@dataclass(frozen=True)
class Moment:
    """One operation of ours, and the host before and after it.

    Attributes:
        fault: Of which kind, if one came about.
        errors: What was logged as an error.
        refusing: Functions that a driver does not take.
        stubborn: Domains whose guests do not let go.
        lent: What an earlier attach took from the host's drivers.
    """

    verb: str
    address: str
    domain: str
    scope: str
    option: str
    fault: str | None
    answer: Answer
    preflight: Preflight | None
    before: Scene
    after: Scene
    errors: Sequence[str]
    refusing: Collection[str]
    stubborn: Collection[str]
    lent: frozenset[str]

    @property
    def group(self) -> Sequence[str]:
        return [each for each in GROUPS[self.address] if each in self.before.drivers]

    @property
    def taking(self) -> Sequence[str]:
        return self.group if self.scope == "group" else [self.address]

    @property
    def holders(self) -> set[str]:
        """Domains that have the device itself."""
        return {
            name
            for has in (self.before.live, self.before.defined)
            for name, devices in has.items()
            if self.address in devices
        }

    def has_lost_its_driver(self, address: str) -> bool:
        there = address in self.after.drivers
        return (
            there
            and self.after.drivers[address] is None
            and (self.before.drivers[address] is not None)
        )

    def has_left_its_driver(self, address: str) -> bool:
        return _is_hosts(self.before.drivers.get(address)) and _is_vfio(
            self.after.drivers.get(address)
        )


def check_step(moment: Moment, diagnose: Callable[[], str]) -> None:
    """Check everything that must hold after an operation of ours.

    Raises:
        Violation: Something does not.
    """
    if moment.answer.code in NEVER and moment.fault is None:
        raise Violation(f"answered {moment.answer.code}: {moment.answer.message}")
    _check_guests(moment)
    _check_host(moment)
    _check_shared(moment)
    _check_others(moment)
    _check_preflight(moment)
    if moment.answer.code is None:
        _check_done(moment)
    elif moment.answer.code != "killed":
        _check_undone(moment, diagnose)


def _check_guests(moment: Moment) -> None:
    """No guest loses what it has; a detach takes what was asked for."""
    for name, has in moment.before.live.items():
        leaving = moment.group if moment.verb == "detach" and name in moment.holders else []
        for held, kind in has.items():
            asked = held in leaving and not kind.startswith("disk")
            if asked or (name, held) in moment.before.broken:
                continue
            now = moment.after.live.get(name, {}).get(held)
            if now != kind or (name, held) in moment.after.broken:
                raise Violation(f"guest {name} had {held} as {kind}, and has {now} now")


def _check_host(moment: Moment) -> None:
    """What the host lives on stays on its driver, untouched, unless somebody forced it."""
    for address in CRITICAL & moment.before.drivers.keys():
        forced = moment.option == "force" and address in moment.group
        if forced or not _is_hosts(moment.before.drivers[address]):
            continue
        if _of(moment.before, address) != _of(moment.after, address):
            raise Violation(f"the host lives on {address}: now {_of(moment.after, address)}")


def _check_shared(moment: Moment) -> None:
    for before, after in (
        (moment.before.live, moment.after.live),
        (moment.before.defined, moment.after.defined),
    ):
        for held in {each for has in after.values() for each in has}:
            then = {name for name, has in before.items() if held in has}
            now = {name for name, has in after.items() if held in has}
            if len(now) > max(1, len(then)):
                raise Violation(f"{held} is in {sorted(now)}")


def _check_others(moment: Moment) -> None:
    """No operation touches what it is not about."""
    for address in moment.before.drivers.keys() - set(moment.group):
        if _of(moment.before, address) != _of(moment.after, address):
            raise Violation(f"{address} is not concerned: {_of(moment.after, address)}")
    of_verb: Mapping[str, set[str]] = {"attach": {moment.domain}, "detach": moment.holders}
    concerned = of_verb.get(moment.verb, set())
    for before, after in (
        (moment.before.live, moment.after.live),
        (moment.before.defined, moment.after.defined),
    ):
        for name in (before.keys() | after.keys()) - concerned:
            if before.get(name) != after.get(name):
                raise Violation(f"domain {name} is not concerned: {after.get(name)}")


def _check_preflight(moment: Moment) -> None:
    """Preflight is ready if and only if the operation is not refused, with the same code."""
    if moment.preflight is None or moment.fault is not None:
        return
    errors = [each.id for each in moment.preflight.checks if each.severity == "error"]
    if moment.option == "force":
        errors = [each for each in errors if each != "critical"]
    code = moment.answer.code
    if not errors and code is not None:
        if code == "no_free_slot" or set(moment.taking) & set(moment.refusing):
            return
        raise Violation(f"preflight was ready, answered {code}: {moment.answer.message}")
    if errors and code not in CODES[errors[0]]:
        raise Violation(f"preflight said {errors}, answered {code}: {moment.answer.message}")
    if errors and _differences(moment):
        raise Violation(f"refused with {code} after the first act: {_differences(moment)}")


def _check_done(moment: Moment) -> None:
    """What was answered as done is done, and nothing else is."""
    after = moment.after
    moved: set[str] = set()
    match moment.verb, moment.option:
        case ("bind", _) | ("register", "bind"):
            moved = set(moment.taking)
            _demand(all(_is_vfio(after.drivers[each]) for each in moved), moment)
        case ("unbind", _) | ("unregister", "unbind"):
            moved = {each for each in moment.taking if _is_vfio(moment.before.drivers.get(each))}
            wrong = {each for each in moved if after.drivers[each] != DRIVERS[each]}
            _demand(not wrong - set(moment.refusing), moment)
        case "attach", _:
            moved = set(moment.taking)
            for has in (after.live, after.defined):
                if moment.domain in has:
                    _demand(moved <= has[moment.domain].keys(), moment)
        case "detach", _:
            moved = set(moment.group)
            _check_given_back(moment)
    for each in set(moment.group) - moved:
        if moment.before.drivers[each] != after.drivers[each]:
            raise Violation(f"{each} moved to {after.drivers[each]}, which nobody asked for")


def _check_given_back(moment: Moment) -> None:
    left = {
        name
        for has in (moment.after.live, moment.after.defined)
        for name in moment.holders
        if moment.address in has.get(name, {})
    }
    _demand(len(left) < len(moment.holders), moment)
    if moment.fault is not None and moment.errors:
        return
    taken = {
        each
        for name in moment.holders - left
        for has in (moment.before.live, moment.before.defined)
        for each in has.get(name, {})
    }
    for each in set(moment.group) & taken - set(moment.refusing):
        driver = moment.after.drivers[each]
        held = any(each in has for has in moment.after.live.values())
        if driver is None and moment.before.drivers[each] is not None:
            raise Violation(f"{each} has no driver after a detach, and nothing is logged")
        if each in moment.lent and driver != DRIVERS[each] and not held:
            raise Violation(f"{each} was lent to the guest, and is on {driver} for ever")


def _check_undone(moment: Moment, diagnose: Callable[[], str]) -> None:
    """What was answered as refused has left no trace, or libvirt does not let us, and says so."""
    if moment.answer.code == "guest_did_not_release":
        return
    differences = _differences(moment)
    if not differences or set(moment.group) & set(moment.refusing):
        return
    lasting = moment.fault in {"fails for ever", "down"}
    stubborn = moment.domain in moment.stubborn or set(moment.holders) & set(moment.stubborn)
    if (lasting or stubborn) and (moment.errors or diagnose()):
        return
    raise Violation(
        f"answered {moment.answer.code} ({moment.answer.message}), and {differences}; "
        f"logged {moment.errors}"
    )


def _differences(moment: Moment) -> list[str]:
    before, after = moment.before, moment.after
    found = [
        f"{each} went from {before.drivers[each]} to {after.drivers.get(each)}"
        for each in moment.group
        if before.drivers[each] != after.drivers.get(each)
    ]
    if before.live != after.live:
        found.append(f"guests have {after.live} instead of {before.live}")
    if before.defined != after.defined:
        found.append(f"definitions have {after.defined} instead of {before.defined}")
    return found


def list_half_done(
    scene: Scene,
    registered: Collection[str],
    notes: Collection[tuple[str, str]],
    lost: Collection[str],
) -> Sequence[tuple[str, str]]:
    """List what no whole operation leaves, each with the word by which doctor names it."""
    held = {each for has in scene.live.values() for each in has}
    found = []
    for group in {GROUPS[each] for each in scene.drivers}:
        drivers = {each: scene.drivers[each] for each in group if each in scene.drivers}
        if held & set(group) or not set(group) & set(registered):
            continue
        if any(map(_is_vfio, drivers.values())) and any(map(_is_hosts, drivers.values())):
            first = next(each for each, driver in drivers.items() if _is_vfio(driver))
            found.append((f"half of {group} is on vfio-pci", first))
        found += [(f"{each} has no driver", each) for each in group if each in lost]
    for name, device in notes:
        has = {**scene.live.get(name, {}), **scene.defined.get(name, {})}
        if device not in has:
            found.append((f"domain {name} notes {device} and does not have it", name))
    return found


def _demand(holds: bool, moment: Moment) -> None:
    if not holds:
        raise Violation(f"{moment.verb} was answered as done: {moment.after}")


def _of(scene: Scene, address: str) -> tuple[str | None, tuple[int, int] | None]:
    return scene.drivers.get(address), scene.moves.get(address)


def _is_vfio(driver: str | None) -> bool:
    return driver == "vfio-pci"


def _is_hosts(driver: str | None) -> bool:
    return driver is not None and not _is_vfio(driver)
