"""The service is killed before each step of each operation; the next one finds nothing lost."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from tests.trust import crashing
from tests.trust.conftest import Figures

pytestmark = [pytest.mark.trust, pytest.mark.usefixtures("fake_host")]  # it runs on the fake

PATIENCE: Final = 300.0
AT_BOOT: Final = {
    crashing.L4: "nvidia",
    crashing.GPU: "nvidia",
    crashing.AUDIO: "snd_hda_intel",
    crashing.TWIN: "nvidia",
}


@pytest.fixture(scope="module")
def run() -> Callable[..., int | None]:
    """Runs a function in a fresh process, and returns how that ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.trust.on_the_fake", "tests.trust.crashing"])

    def run(function: Callable[..., None], *arguments: object) -> int | None:
        process = context.Process(target=function, args=arguments)
        process.start()
        process.join(PATIENCE)
        return process.exitcode

    return run


@pytest.mark.parametrize("operation", crashing.OPERATIONS)
def test_nothing_is_lost_and_what_is_half_done_is_told(
    run: Callable[..., int | None], tmp_path: Path, figures: Figures, operation: str
) -> None:
    before, directory = tmp_path / "before", tmp_path / "crashed"
    before.mkdir()
    assert run(crashing.prepare, str(before), operation) == 0
    at_first = crashing.read(before)
    told = 0
    for step in count(1):
        crashing.copy(before, directory)
        ended = run(crashing.operate, str(directory), operation, step)
        assert ended in {0, -signal.SIGKILL}, f"step {step}"
        assert run(crashing.inspect, str(directory)) == 0
        now = crashing.read(directory)
        if ended == 0:
            break
        check_registrations(operation, at_first, now)
        if operation == "move":
            check_move(now, f"killed before step {step}")
        check_vgpus(run, directory, now, f"{operation}, killed before step {step}")
        told += check_host(now, f"{operation}, killed before step {step}")
    assert step > 1
    check_done(operation, at_first, now)
    figures(f"crash: {operation}: kills, losses, half done and told", f"{step - 1}, 0, {told}")


def check_registrations(operation: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """What was answered is there, nothing is there twice, and every GET answers."""
    names = [name for name, _ in now["registered"]]
    assert len(set(names)) == len(names)
    assert now["answered"] == sorted(names)
    if not operation.startswith("unregister"):
        kept = {tuple(each) for each in before["registered"]}
        assert kept <= {tuple(each) for each in now["registered"]}


def check_host(now: dict[str, Any], when: str) -> bool:
    """Nothing is half done that the doctor does not tell; return whether it told something."""
    told = {what for what, _ in now["findings"]}
    assert told <= {"interrupted", "devices"}, f"{when}: {now['findings']}"
    for address, driver in now["drivers"].items():
        held = any(address in each for each in now["held"].values())
        lost = driver is None and not held
        assert not lost or told, f"{when}: {address} has no driver, and nobody says so"
    assert sum(crashing.GPU in each for each in now["held"].values()) <= 1
    drivers = {now["drivers"][crashing.GPU], now["drivers"][crashing.AUDIO]}
    free = not any(crashing.GPU in each or crashing.AUDIO in each for each in now["held"].values())
    registered = any(name == "rtx" for name, _ in now["registered"])
    if free and registered and "vfio-pci" in drivers and len(drivers) > 1:
        assert told, f"{when}: half of the group is on vfio-pci, and nobody says so"
    return bool(told)


def check_move(now: dict[str, Any], when: str) -> None:
    """The domain has one of the cards, and where it is not the registered one somebody says so."""
    (held,) = now["held"]["vm-off"]
    assert held in {crashing.L4, crashing.TWIN}, when
    assert held == now["places"]["l4-gpu"] or now["findings"], when


def check_vgpus(
    run: Callable[..., int | None], directory: Path, now: dict[str, Any], when: str
) -> None:
    """No vGPU is without a registration, none is lost in silence, and DELETE ends all of them."""
    assert now["mdevs"].keys() <= set(now["vgpus"]), when
    for uuid in now["vgpus"]:
        told = any(uuid in message for _, message in now["findings"])
        assert now["mdevs"].get(uuid) or told, when
    if now["vgpus"]:
        assert run(crashing.delete_vgpus, str(directory)) == 0, when
        assert run(crashing.inspect, str(directory)) == 0, when
        after = crashing.read(directory)
        assert (after["mdevs"], after["vgpus"], after["findings"]) == ({}, [], []), when


def check_done(operation: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """An operation that nobody killed is whole."""
    assert now["findings"] == []
    if operation.startswith("detach"):
        assert now["drivers"] == AT_BOOT
    assert now != before
