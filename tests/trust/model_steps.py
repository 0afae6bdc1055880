"""What anybody does to the host of the model: sequences of steps, each made from a number."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Final, Literal

from lxml.etree import _Element as Element

from hypeman_libvirt.devices.model import Scope
from tests.fake_host import FakeHost, Guest
from tests.fake_xml import show
from tests.trust.model_host import CARDS, ELEMENTS, GROUPS, NVME, VF1, domain_xml, find, hostdev

DOMAINS: Final = ("vm-0", "vm-1", "vm-2")
CODES: Final = (
    *((code, 0) for code in (1, 3, 8, 29, 38, 39, 42, 45, 53, 55, 67, 68, 74, 79, 80, 84, 88)),
    *((94, 0), (99, 0), (1, 7), (38, 7), (1, 10), (1, 20)),
)
"""Code and domain of every error that libvirt was seen to give."""
OWN: Final = ("register", "unregister", "bind", "unbind", "attach", "detach", "clear")
FaultKind = Literal["fails", "fails for ever", "lost before", "lost after", "down", "kill"]


@dataclass(frozen=True)
class Fault:
    """What goes wrong at which step of an operation; steps count from 1."""

    kind: FaultKind
    at: int
    code: tuple[int, int]


@dataclass(frozen=True)
class Step:
    """Something that somebody does."""

    verb: str
    address: str = ""
    domain: str = ""
    scope: Scope = "device"
    option: str = ""
    fault: Fault | None = None

    @property
    def is_own(self) -> bool:
        return self.verb in OWN

    @property
    def force(self) -> bool:
        return self.option == "force"


def make_steps(seed: int) -> list[Step]:
    """Make a sequence: most of its steps are about few cards, or they would never meet."""
    source = random.Random(seed)  # noqa: S311
    cards = source.sample(CARDS[:-1], 2)
    cards += GROUPS[cards[0]]
    steps = [
        Step("define", domain=name, option=",".join(_choose_elements(source, cards)))
        for name in DOMAINS
    ]
    steps += [Step("start", domain=each) for each in DOMAINS if source.random() < 0.5]
    steps += [Step("register", each) for each in cards[:2]]
    steps += [_make_step(source, cards) for _ in range(source.randint(3, 9))]
    return steps


def _choose_elements(source: random.Random, cards: Sequence[str]) -> list[str]:
    if source.random() < 0.5:
        return []
    few = [each for each in ELEMENTS if each in cards or not each.startswith("0000:")]
    chosen = source.sample(few, source.randint(1, 2))
    rivals = {"interface": VF1, "nvme": NVME}  # of one address, which libvirt takes only once
    return [each for each in chosen if rivals.get(each) not in chosen]


_WEIGHTS: Final = {
    "register": 4, "unregister": 8, "bind": 14, "unbind": 10, "attach": 20, "detach": 16,
    "clear": 6,
    "start": 8, "destroy": 6, "undefine": 2, "define": 4, "create": 2, "make persistent": 2,
    "nodedev-detach": 4, "nodedev-reattach": 4, "attach-device": 4, "detach-device": 4,
    "guest": 4, "driver": 3,
}  # fmt: skip


def _make_step(source: random.Random, cards: Sequence[str]) -> Step:
    verb = source.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    step = Step(verb, source.choice(cards), source.choice(DOMAINS))
    step = replace(step, scope=source.choice(("device", "group")))
    if verb in {"define", "create"}:
        return replace(step, option=",".join(_choose_elements(source, cards)))
    options: Mapping[str, Sequence[str]] = {
        "register": ("", "", "bind", "retry"),
        "unregister": ("", "unbind"),
        "bind": ("", "", "force"),
        "attach": ("", "", "force"),
        "attach-device": ("live", "config", "both"),
        "detach-device": ("live", "config", "both"),
        "guest": ("ignores", "refuses", "answers"),
        "driver": ("vfio refuses", "host refuses", "answers"),
    }
    step = replace(step, option=source.choice(options.get(verb, ("",))))
    return replace(step, fault=_make_fault(source)) if step.is_own else step


def _make_fault(source: random.Random) -> Fault | None:
    if source.random() < 0.55:
        return None
    kinds: Sequence[FaultKind] = (
        "fails", "fails", "fails for ever", "lost before", "lost after", "down", "kill", "kill",
    )  # fmt: skip
    at = source.randint(1, source.choice((40, 90, 160)))  # attach makes about so many calls
    return Fault(source.choice(kinds), at, source.choice(CODES))


def do_virsh(host: FakeHost, step: Step) -> None:
    """Do what virsh, a guest or a driver does; nothing where there is nothing to do it to.

    Raises:
        libvirtError: libvirt refuses it.
    """
    guest = find(host, step.domain)
    if step.verb in _OF_HOST:
        _OF_HOST[step.verb](host, step)
    elif step.verb in _OF_FUNCTIONS:
        if step.address in {each.address for each in host.functions()}:
            _OF_FUNCTIONS[step.verb](host, step)
    elif guest is not None:
        _OF_GUESTS[step.verb](host, guest, step)


def _domain_xml(step: Step) -> str:
    devices = tuple(each for each in step.option.split(",") if each)
    return domain_xml(step.domain, DOMAINS.index(step.domain), devices)


def _create(host: FakeHost, step: Step) -> None:
    if find(host, step.domain) is None:
        guest = host.define(_domain_xml(step))
        try:
            host.start(guest)
        finally:
            host.undefine(guest)


def _refuse(host: FakeHost, step: Step) -> None:
    host.pci(step.address).refused_by_vfio = step.option == "vfio refuses"
    host.pci(step.address).refused_by_host_driver = step.option == "host refuses"


def _start(host: FakeHost, guest: Guest, _: Step) -> None:
    if guest.config is not None:
        host.start(guest)


def _make_persistent(host: FakeHost, guest: Guest, _: Step) -> None:
    if guest.live is not None and guest.config is None:
        host.define(_without_id(guest.live))


def _without_id(live: Element) -> str:
    copy = deepcopy(live)
    copy.attrib.pop("id", None)
    return show(copy)


def _attach(host: FakeHost, guest: Guest, step: Step) -> None:
    host.attach(guest, hostdev(step.address), *_affected(step))


def _detach(host: FakeHost, guest: Guest, step: Step) -> None:
    host.detach(guest, hostdev(step.address), *_affected(step))


def _affected(step: Step) -> tuple[bool, bool]:
    return step.option in {"live", "both"}, step.option in {"config", "both"}


def _answer(_: FakeHost, guest: Guest, step: Step) -> None:
    guest.ignores_unplug = step.option == "ignores"
    guest.refuses_unplug = step.option == "refuses"


_OF_HOST: Final[Mapping[str, Callable[[FakeHost, Step], object]]] = {
    "define": lambda host, step: host.define(_domain_xml(step)),
    "create": _create,
}
_OF_FUNCTIONS: Final[Mapping[str, Callable[[FakeHost, Step], object]]] = {
    "nodedev-detach": lambda host, step: host.take_to_vfio(host.pci(step.address)),
    "nodedev-reattach": lambda host, step: host.give_back(host.pci(step.address)),
    "driver": _refuse,
}
_OF_GUESTS: Final[Mapping[str, Callable[[FakeHost, Guest, Step], object]]] = {
    "start": _start,
    "destroy": lambda host, guest, _: host.stop(guest),
    "undefine": lambda host, guest, _: host.undefine(guest),
    "make persistent": _make_persistent,
    "attach-device": _attach,
    "detach-device": _detach,
    "guest": _answer,
}
