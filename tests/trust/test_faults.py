"""Every call to libvirt fails with every error that libvirt was seen to give.

The API client holds each answer against the OpenAPI document, so an undocumented status or code
fails by itself. The table is made by the test: which calls an operation makes is counted first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from falcon.testing import Result

from tests import fake_libvirt
from tests.api.client import Api
from tests.api.whole_app import whole_app
from tests.conftest import seed_host
from tests.fake_host import FakeHost
from tests.fake_xml import held
from tests.trust.conftest import Figures
from tests.world import OPERATOR, World, world_on

pytestmark = [pytest.mark.trust, pytest.mark.usefixtures("fake_host")]

L4, GPU, AUDIO, TWIN = "0000:a2:00.0", "0000:41:00.0", "0000:41:00.1", "0000:a3:00.0"
AT_BOOT: Final = {L4: "nvidia", GPU: "nvidia", AUDIO: "snd_hda_intel"}
CODES: Final = [
    *[(code, 0) for code in (1, 3, 8, 29, 38, 39, 42, 45, 53, 55, 67, 68, 74, 79, 80)],
    *[(code, 0) for code in (84, 88, 94, 99)],
    *[(1, 7), (38, 7), (1, 10), (1, 20)],
]
"""Code and domain; libvirt-python's names are VIR_ERR_* and VIR_FROM_*."""
ONCE, FOR_EVER = 1, None


@dataclass
class Snapshot:
    """A service on a fake host, in the state that an operation begins with."""

    host: FakeHost
    world: World
    api: Api

    def drivers(self) -> dict[str, str | None]:
        return {address: self.host.driver(address) for address in AT_BOOT}

    def registered(self) -> list[str]:
        key = self.host.uuid
        return [each.id for each in self.world.registry.list_registrations(key, {})]


Operation = tuple[Callable[[Snapshot], object], Callable[[Api], Result]]
OPERATIONS: Final[dict[str, Operation]] = {
    "list": (lambda _: None, lambda api: api.get("/devices")),
    "get": (lambda _: None, lambda api: api.get("/devices/l4-gpu")),
    "available": (lambda _: None, lambda api: api.get("/devices/available")),
    "groups": (lambda _: None, lambda api: api.get("/iommu-groups")),
    "preflight": (lambda _: None, lambda api: api.get("/devices/rtx/preflight")),
    "hostdev": (lambda _: None, lambda api: api.get("/devices/rtx/hostdev.xml?scope=group")),
    "ready": (lambda _: None, lambda api: api.get("/ready")),
    "resources": (lambda _: None, lambda api: api.get("/resources")),
    "register": (
        lambda now: now.world.service.unregister("l4-gpu", OPERATOR),
        lambda api: api.post("/devices", {"pci_address": L4, "name": "l4-gpu"}),
    ),
    "register and bind": (
        lambda now: now.world.service.unregister("l4-gpu", OPERATOR),
        lambda api: api.post("/devices", {"pci_address": L4, "name": "l4-gpu", "bind": "group"}),
    ),
    "delete": (lambda _: None, lambda api: api.delete("/devices/l4-gpu")),
    "bind": (
        lambda _: None,
        lambda api: api.post("/devices/rtx/bind", {"scope": "group"}),
    ),
    "unbind": (
        lambda now: now.world.service.bind("rtx", "group", OPERATOR),
        lambda api: api.post("/devices/rtx/unbind", {"scope": "group"}),
    ),
    "attach": (
        lambda _: None,
        lambda api: api.post("/devices/rtx/attach", {"instance": "vm-off", "scope": "group"}),
    ),
    "attach to a running domain": (
        lambda _: None,
        lambda api: api.post("/devices/rtx/attach", {"instance": "vm-on", "scope": "group"}),
    ),
    "detach": (
        lambda now: now.world.service.attach("rtx", "vm-off", "group", OPERATOR),
        lambda api: api.post("/devices/rtx/detach"),
    ),
    "move": (
        lambda now: now.world.service.attach("l4-gpu", "vm-off", "device", OPERATOR),
        lambda api: api.post("/devices/l4-gpu/move", {"pci_address": TWIN}),
    ),
    "detach from a running domain": (
        lambda now: now.world.service.attach("rtx", "vm-on", "group", OPERATOR),
        lambda api: api.post("/devices/rtx/detach"),
    ),
}


@contextmanager
def snapshot(directory: Path, name: str) -> Iterator[Snapshot]:
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415

    with ExitStack() as stack:
        host = seed_host()
        host.add_pci(TWIN, driver="nvidia", group=83)
        fake_libvirt.serve(host)
        stack.callback(fake_libvirt.forget, host)
        libvirt_host = open_host(host.uri)
        stack.callback(libvirt_host.close)
        world = stack.enter_context(world_on(libvirt_host, directory))
        world.service.register(L4, "l4-gpu", {}, OPERATOR)
        world.service.register(GPU, "rtx", {}, OPERATOR)
        found = Snapshot(host, world, Api(whole_app(world)))
        OPERATIONS[name][0](found)
        yield found


class Situations:
    """Situations to begin an operation with: the same again after one that changed nothing."""

    def __init__(self, directory: Path, name: str, stack: ExitStack) -> None:
        self._directory = directory
        self._name = name
        self._stack = stack
        self._count = 0
        self._now: Snapshot | None = None

    def get(self) -> Snapshot:
        if self._now is None:
            self._count += 1
            directory = self._directory / str(self._count)
            directory.mkdir()
            self._now = self._stack.enter_context(snapshot(directory, self._name))
        return self._now

    def spend(self) -> None:
        self._now = None
        self._stack.close()


@pytest.mark.parametrize("times", [ONCE, FOR_EVER], ids=["once", "for ever"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_whatever_libvirt_answers_the_promise_is_kept(
    tmp_path: Path, name: str, times: int | None, figures: Figures
) -> None:
    answers: Counter[str] = Counter()
    with ExitStack() as stack:
        situations = Situations(tmp_path, name, stack)
        calls = _calls_of(situations.get(), name)
        situations.spend()
        for call in calls:
            for code, domain in CODES:
                answer = _fail(situations.get(), name, call, code, domain, times)
                answers[answer] += 1
                if answer in {"done", "504 guest_did_not_release"}:  # it may let go later
                    situations.spend()
    shown = ", ".join(f"{answer} {count}" for answer, count in answers.most_common())
    often = "once" if times else "for ever"
    figures(f"faults: {name}, each {often}", f"{answers.total()}: {shown}")
    assert "500 internal_error" not in answers


def _calls_of(now: Snapshot, name: str) -> list[str]:
    """Return the calls to libvirt that an operation makes when nothing fails."""
    before = Counter(now.host.calls)
    answer = OPERATIONS[name][1](now.api)
    assert answer.status_code < 300, f"{name}: {answer.text}"
    return sorted((Counter(now.host.calls) - before).keys())


def _fail(now: Snapshot, name: str, call: str, code: int, domain: int, times: int | None) -> str:
    """Let the call fail, do the operation, and look at what is left; return the answer."""
    before, registered = now.drivers(), now.registered()
    assignments = [held(guest.config) | held(guest.live) for guest in now.host.guests.values()]
    now.host.refuse(call, code, domain, times=times)
    answer = OPERATIONS[name][1](now.api)
    where = f"{name}, {call} fails with {code}/{domain}: {answer.text}"
    assert "Traceback" not in answer.text, where
    assert "libvirtError" not in answer.text, where
    now.host.allow(call)
    if answer.status_code >= 300:
        assert now.registered() == registered, where
        if not (_has_no_way_back(call, times) or "guest_did_not_release" in answer.text):
            after = [held(guest.config) | held(guest.live) for guest in now.host.guests.values()]
            assert (now.drivers(), after) == (before, assignments), where
    assert None not in now.drivers().values(), where
    assert now.api.get("/devices").status_code == 200, where
    return f"{answer.status_code} {answer.json['code']}" if answer.status_code >= 300 else "done"


def _has_no_way_back(call: str, times: int | None) -> bool:
    """Whether what undoes an operation fails as well."""
    return times is FOR_EVER and call in {"reAttach", "detachFlags", "detachDeviceFlags"}


def test_a_libvirt_that_is_down_at_the_start_is_waited_for(
    tmp_path: Path, fake_host: FakeHost
) -> None:
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415

    fake_host.down()
    host = open_host(fake_host.uri)
    with world_on(host, tmp_path) as world:
        api = Api(whole_app(world))
        for path in ("/ready", "/devices/available", "/iommu-groups"):
            assert api.get(path).status_code == 503
        assert api.get("/health").status_code == 200
        fake_host.up()
        while api.get("/ready").status_code == 503:  # it tries again after a second
            continue
        assert api.get("/devices/available").status_code == 200
    host.close()
