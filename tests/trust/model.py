"""Sequences of what anybody does to the host of the model, and what must hold after every step.

A sequence is made from a number, so that it can be run again and shortened. Its rules know the
fake host alone: they are not the package's own.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import SecretStr

from hypeman_libvirt import bootstrap
from hypeman_libvirt.devices.errors import DeviceError, RegistryUnavailableError
from hypeman_libvirt.devices.model import Caller, Preflight
from hypeman_libvirt.devices.ports import Registry
from hypeman_libvirt.devices.service import DeviceService
from hypeman_libvirt.doctor.checks import diagnose
from hypeman_libvirt.doctor.examination import examine
from hypeman_libvirt.host.libvirt_host import LibvirtHost, open_host
from hypeman_libvirt.settings import Settings
from tests import fake_libvirt
from tests.api.client import SECRET
from tests.fake_host import FakeHost
from tests.trust.model_host import GROUPS, build_host, see
from tests.trust.model_rules import Answer, Moment, Violation, check_step, list_half_done
from tests.trust.model_steps import Fault, Step, do_virsh, make_steps
from tests.trust.model_workshop import Mortal, Workshop, quiet


class Killed(BaseException):
    """The process of the service is no more."""


class Run:
    """One sequence on a host of its own."""

    def __init__(self, workshop: Workshop, counts: Counter[str]) -> None:
        self._shop = workshop
        self._counts = counts
        self.host: FakeHost = build_host(workshop.sysfs)
        fake_libvirt.serve(self.host)
        self._fault: Fault | None = None
        self._steps, self._fired, self._dead = 0, False, False
        self._incarnation = 0
        self._now = datetime(2025, 1, 15, 10, tzinfo=UTC)
        self._opened: LibvirtHost
        self.service: DeviceService
        self.registered: dict[str, tuple[str, str]] = {}
        self.lent: set[str] = set()
        self._lost: set[str] = set()
        self._logged: list[str] = []
        self.host.before_call = self._before_call
        self._start()

    def close(self) -> None:
        self._stop()
        fake_libvirt.forget(self.host)

    def _start(self) -> None:
        self._opened = open_host(self.host.uri, local_host=self._shop.sysfs.local)
        registry = self._shop.registries[self._incarnation % 2]
        world = bootstrap.World(
            host=self._opened,
            view=self._opened.view,
            resources=self._opened.resources,
            registry=cast("Registry", Mortal(registry, self._step)),
            locks=self._shop.locks,
            clock=lambda: self._now,
            new_id=lambda: next(self._shop.ids),
            on_change=lambda _: None,
            last_operations=1.0,
            metrics=self._shop.metrics,
        )
        self.service = bootstrap.build_service(self._shop.settings, world)

    def _stop(self) -> None:
        self.service.close()
        self._opened.close()

    def restart(self) -> None:
        """Let a new service continue on the same registry and the same host."""
        self._stop()
        self._incarnation += 1
        self._start()

    def do(self, step: Step) -> None:
        """Do one step, and check what must hold after it.

        Raises:
            Violation: Something does not hold.
        """
        self._now += timedelta(seconds=7)
        self._counts["steps"] += 1
        if not step.is_own:
            if step.verb in {"nodedev-detach", "nodedev-reattach", "attach-device"}:
                self.lent.discard(step.address)
            if step.verb == "detach-device":
                self.lent.difference_update(GROUPS[step.address])
            with suppress(fake_libvirt.libvirtError):
                do_virsh(self.host, step)
            self._shop.sysfs.follow(self.host)
            return
        moment = self._perform(step)
        self._logged += moment.errors
        self._counts[f"{step.verb}: {moment.answer.code or 'done'}"] += 1
        check_step(moment, self._diagnose)
        self._keep_books(moment)
        self._check_registry(moment)
        lost = {each for each in moment.group if moment.has_lost_its_driver(each)}
        self._lost = {each for each in self._lost | lost if moment.after.drivers[each] is None}

    def settle(self) -> None:
        """Check that what is half done is named by doctor, once everybody has come to rest."""
        scene = see(self.host)
        notes = list(self._list_notes())
        half_done = list_half_done(
            scene, {a for _, a in self.registered.values()}, notes, self._lost
        )
        self._counts["half done"] += len(half_done)
        if half_done:
            named = "; ".join([self._diagnose(), *self._logged])
            for what, word in half_done:
                if word not in named:
                    raise Violation(f"{what}, and doctor does not name it: {named or 'all ok'}")

    def _perform(self, step: Step) -> Moment:
        before = see(self.host)
        self._shop.errors.lines.clear()
        preflight = None if step.fault else self._ask_preflight(step)
        self._fault, self._steps, self._fired = step.fault, 0, False
        answer = self._answer(step)
        lines, fired = list(self._shop.errors.lines), self._fired
        self._recover(answer)
        return Moment(
            step.verb,
            step.address,
            step.domain,
            step.scope,
            step.option,
            None if not fired or step.fault is None else step.fault.kind,
            answer,
            preflight,
            before,
            see(self.host),
            lines,
            {each.address for each in self.host.functions() if _refuses(each)},
            {each.name for each in self.host.guests.values() if _is_stubborn(each)},
            frozenset(self.lent),
        )

    def _answer(self, step: Step) -> Answer:
        try:
            result = self._do_own(step)
        except DeviceError as error:
            return Answer(error.code, str(error))
        except Killed:
            return Answer("killed")
        return Answer(None, result=result)

    def _recover(self, answer: Answer) -> None:
        """Take the fault away, and start the service anew where it died or lost its host."""
        fault, self._fault = self._fault, None
        if fault is not None and self._fired:
            self._counts["kills" if fault.kind == "kill" else "faults"] += 1
        self.host._refusals.clear()  # noqa: SLF001
        self.host._lost_replies.clear()  # noqa: SLF001
        self.host.up()
        self._dead = False
        if answer.code == "killed" or (self._fired and not self._is_connected()):
            self.restart()

    def _is_connected(self) -> bool:
        """Whether the service has its host; after a failed open it waits for a second."""
        try:
            self._opened.ping()
        except DeviceError:
            return False
        return True

    def _before_call(self, call: str) -> None:
        self._shop.sysfs.follow(self.host)
        self._step(call)

    def _step(self, call: str) -> None:
        if self._dead:
            raise Killed
        fault = self._fault
        if fault is None:
            return
        self._steps += 1
        if self._steps < fault.at or self._fired:
            return
        self._fired = True
        of_registry = call.startswith("registry ")
        match fault.kind:
            case "kill":
                self._dead = True
                raise Killed
            case "fails" | "fails for ever" if of_registry:
                raise RegistryUnavailableError("the disk of the model is full")
            case "fails" | "fails for ever":
                times = 1 if fault.kind == "fails" else None
                self.host.refuse(call, fault.code[0], fault.code[1], times)
            case "lost before":
                self.host.drop_connections()
            case "lost after":
                self.host.lose_reply(call)
                self._fired = not of_registry
            case "down":
                self.host.down()

    def _ask_preflight(self, step: Step) -> Preflight | None:
        if step.verb not in {"attach", "bind"}:
            return None
        instance = step.domain if step.verb == "attach" else None
        purpose = cast("Literal['attach', 'bind']", step.verb)
        with suppress(DeviceError):
            return self.service.preflight.of_device(step.address, instance, step.scope, purpose)
        return None

    def _do_own(self, step: Step) -> object:
        service, caller = self.service, Caller("operator", is_retry=step.option == "retry")
        match step.verb:
            case "register":
                bind = step.scope if step.option == "bind" else None
                return service.register(step.address, None, {}, caller, bind).registration
            case "unregister":
                unbind = step.scope if step.option == "unbind" else None
                return service.unregister(step.address, caller, unbind)
            case "bind":
                return service.bind(step.address, step.scope, caller, force=step.force)
            case "unbind":
                return service.unbind(step.address, step.scope, caller)
            case "attach":
                return service.attach(
                    step.address, step.domain, step.scope, caller, force=step.force
                )
        end = service.clear if step.verb == "clear" else service.detach
        return end(step.address, caller)

    def _keep_books(self, moment: Moment) -> None:
        """Note what attach took from the host's drivers: it is lent, and detach gives it back."""
        group = GROUPS[moment.address]
        if moment.verb == "attach":
            self.lent |= {each for each in group if moment.has_left_its_driver(each)}
        elif moment.verb in {"bind", "unbind", "unregister", "register"}:
            if moment.answer.code is None and moment.option != "":
                self.lent -= set(group)
            if moment.verb in {"bind", "unbind"}:
                self.lent -= set(group)
        elif moment.verb == "detach" and moment.answer.code is None:
            self.lent -= set(group)

    def _check_registry(self, moment: Moment) -> None:
        """Every answered registration is there, and none is there twice."""
        found = self._shop.registries[0].list_registrations(self.host.uuid, {})
        there = {each.id: (each.name, str(each.pci_address)) for each in found}
        addresses = [address for _, address in there.values()]
        if len(set(addresses)) < len(addresses):
            raise Violation(f"registered twice: {there}")
        expected = dict(self.registered)
        failed = moment.answer.code is not None and moment.fault is not None
        uncertain = moment.answer.code == "killed" or (failed and bool(moment.errors))
        if moment.verb == "register" and moment.answer.code is None:
            made = cast("Any", moment.answer.result)
            expected[made.id] = (made.name, str(made.pci_address))
        if moment.verb == "register" and uncertain:
            expected |= {k: v for k, v in there.items() if v[1] == moment.address}
        if moment.verb == "unregister" and (uncertain or moment.answer.code is None):
            gone = {k for k, v in expected.items() if v[1] == moment.address}
            expected = {k: v for k, v in expected.items() if k not in gone - there.keys()}
            if moment.answer.code is None and gone & there.keys():
                raise Violation(f"unregistered and still there: {there}")
        if there != expected:
            raise Violation(f"registered are {there}, answered were {expected}")
        self.registered = expected

    def _list_notes(self) -> Iterator[tuple[str, str]]:
        for domain in self._opened.list_domains():
            for entry in self._opened.read_metadata(domain):
                yield domain.name, str(entry.device)

    def _diagnose(self) -> str:
        settings = Settings(
            uri=self.host.uri,
            registry=str(self._shop.location),
            jwt_secret=SecretStr(SECRET),
        )
        with closing(open_host(self.host.uri, local_host=self._shop.sysfs.local)) as opened:
            findings = diagnose(examine(settings, opened, None, self._now))
        told = [each for each in findings if each.id in {"interrupted", "devices", "notes"}]
        return "; ".join(f"{each.message} [{each.cure}]" for each in told if each.severity != "ok")


def _refuses(function: Any) -> bool:  # noqa: ANN401
    return bool(function.refused_by_vfio or function.refused_by_host_driver)


def _is_stubborn(guest: Any) -> bool:  # noqa: ANN401
    return bool(guest.ignores_unplug or guest.refuses_unplug)


def run_steps(workshop: Workshop, steps: Sequence[Step], counts: Counter[str]) -> str | None:
    """Run a sequence; return what was violated at which step, None when all holds."""
    run = Run(workshop, counts)
    try:
        for number, step in enumerate(steps):
            try:
                run.do(step)
            except Exception as error:  # noqa: BLE001
                why = str(error) if isinstance(error, Violation) else traceback.format_exc()
                return f"step {number}, {step}: {why}"
        try:
            run.settle()
        except Violation as error:
            return f"at rest: {error}"
    finally:
        run.close()
    return None


def shorten(workshop: Workshop, steps: Sequence[Step]) -> list[Step]:
    """Leave out steps, and faults, for as long as something is violated still."""
    kept = list(steps)
    smaller = True
    while smaller:
        smaller = False
        for index in reversed(range(len(kept))):
            for candidate in _simpler(kept, index):
                if run_steps(workshop, candidate, Counter()) is not None:
                    kept, smaller = candidate, True
                    break
    return kept


def _simpler(steps: Sequence[Step], index: int) -> Iterator[list[Step]]:
    yield [*steps[:index], *steps[index + 1 :]]
    if steps[index].fault is not None:
        yield [*steps[:index], replace(steps[index], fault=None), *steps[index + 1 :]]


def run_sequences(directory: Path, numbers: Collection[int]) -> tuple[Counter[str], list[str]]:
    """Run sequences; return what was done, and each violation with its shortest sequence."""
    counts, violations = Counter[str](), list[str]()
    shop = Workshop(directory)
    with closing(shop), quiet(shop.errors):
        for number in numbers:
            steps = make_steps(number)
            counts["sequences"] += 1
            if run_steps(shop, steps, counts) is not None:
                few = shorten(shop, steps)
                why = run_steps(shop, few, Counter())
                violations.append("\n  ".join([f"sequence {number}: {why}", *map(repr, few)]))
    return counts, violations
