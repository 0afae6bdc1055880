"""A service on the fake libvirt whose process dies at a given step, and one that looks afterwards.

Each runs in a process of its own that ``multiprocessing``'s fork server starts: imported once, and
with neither threads nor an open registry. What is on the host lies in a file between two of them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy import Engine, event

from hypeman_libvirt.bootstrap import create_service
from hypeman_libvirt.devices.service import DeviceService
from hypeman_libvirt.doctor.checks import diagnose
from hypeman_libvirt.doctor.examination import examine
from hypeman_libvirt.host.libvirt_host import open_host
from hypeman_libvirt.settings import Settings
from tests import fake_libvirt
from tests.conftest import seed_host
from tests.devices.vgpus import LARGE, add_gpus
from tests.fake_host import FakeHost
from tests.fake_xml import held, parse, show
from tests.world import OPERATOR

UUID: Final = "6f1d0c52-7b3e-4a80-9d1f-2c4b8e6a9053"
L4, GPU, AUDIO, TWIN = "0000:a2:00.0", "0000:41:00.0", "0000:41:00.1", "0000:a3:00.0"
DEVICES: Final = (L4, GPU, AUDIO, TWIN)

Operation = tuple[Callable[[DeviceService], object], Callable[[DeviceService], object]]
"""What was done and answered before, and what is done when the service dies."""


def _both(service: DeviceService) -> None:
    service.register(L4, "l4-gpu", {}, OPERATOR)
    service.register(GPU, "rtx", {}, OPERATOR)


def _bound(service: DeviceService) -> None:
    _both(service)
    service.bind("rtx", "group", OPERATOR)
    service.bind("l4-gpu", "device", OPERATOR)


def _attached(instance: str) -> Callable[[DeviceService], None]:
    def attach(service: DeviceService) -> None:
        _both(service)
        service.attach("rtx", instance, "group", OPERATOR)

    return attach


def _in_a_definition(service: DeviceService) -> None:
    _both(service)
    service.attach("l4-gpu", "vm-off", "device", OPERATOR)


OPERATIONS: Final[dict[str, Operation]] = {
    "register": (lambda _: None, lambda s: s.register(L4, "l4-gpu", {}, OPERATOR)),
    "register, bind": (lambda _: None, lambda s: s.register(L4, "l4-gpu", {}, OPERATOR, "device")),
    "register, bind group": (
        lambda _: None,
        lambda s: s.register(GPU, "rtx", {}, OPERATOR, "group"),
    ),
    "bind": (_both, lambda s: s.bind("l4-gpu", "device", OPERATOR)),
    "bind group": (_both, lambda s: s.bind("rtx", "group", OPERATOR)),
    "unbind group": (_bound, lambda s: s.unbind("rtx", "group", OPERATOR)),
    "attach, shut off": (_both, lambda s: s.attach("rtx", "vm-off", "group", OPERATOR)),
    "attach, running": (_both, lambda s: s.attach("rtx", "vm-on", "group", OPERATOR)),
    "attach one, running": (
        _both,
        lambda s: s.attach("l4-gpu", "vm-on", "device", OPERATOR),
    ),
    "detach, shut off": (_attached("vm-off"), lambda s: s.detach("rtx", OPERATOR)),
    "detach, running": (_attached("vm-on"), lambda s: s.detach("rtx", OPERATOR)),
    "move": (_in_a_definition, lambda s: s.move("l4-gpu", TWIN, OPERATOR)),
    "unregister": (_both, lambda s: s.unregister("l4-gpu", OPERATOR)),
    "create vgpu": (_both, lambda s: s.create_vgpu(LARGE, "slice", {}, OPERATOR, persist=True)),
    "unregister vgpu": (
        lambda s: s.create_vgpu(LARGE, "slice", {}, OPERATOR, persist=True),
        lambda s: s.unregister("slice", OPERATOR),
    ),
    "unregister, unbind": (_bound, lambda s: s.unregister("rtx", OPERATOR, "group")),
}


def prepare(directory: str, operation: str) -> None:
    """Do what was answered before."""
    host = _load(Path(directory))
    with closing(create_service(_settings(host, directory))) as service:
        OPERATIONS[operation][0](service)
    _save(host, Path(directory))
    _write(Path(directory), look(host, directory))


def operate(directory: str, operation: str, fatal: int) -> None:
    """Begin the operation and be killed before the step of that number; steps count from 1."""
    host = _load(Path(directory))
    with closing(create_service(_settings(host, directory))) as service:
        service.inventory.list_devices({})  # what a service that runs has done already
        steps = 0

        def step(*_: object) -> None:
            nonlocal steps
            steps += 1
            if steps == fatal:
                _save(host, Path(directory))
                os.kill(os.getpid(), signal.SIGKILL)

        host.before_call = step
        event.listen(Engine, "commit", step)
        OPERATIONS[operation][1](service)
        step()  # done, and not answered yet
    _save(host, Path(directory))


def delete_vgpus(directory: str) -> None:
    """Delete whatever vGPU is registered."""
    host = _load(Path(directory))
    with closing(create_service(_settings(host, directory))) as service:
        for device in service.inventory.list_devices({}):
            if device.registration.mdev is not None:
                service.unregister(device.registration.id, OPERATOR)
    _save(host, Path(directory))


def inspect(directory: str) -> None:
    """Look at what is there, as the next service does."""
    _write(Path(directory), look(_load(Path(directory)), directory))


def look(host: FakeHost, directory: str) -> dict[str, Any]:
    """Return what is registered, what is where, what each GET says and what the doctor finds."""
    settings = _settings(host, directory)
    with closing(create_service(settings)) as service:
        devices = service.inventory.list_devices({})
        answers = [service.inventory.get(each.registration.id) for each in devices]
    with closing(open_host(host.uri)) as opened:
        findings = diagnose(examine(settings, opened, None, datetime.now(UTC)))
    return {
        "registered": sorted((each.registration.name, each.registration.id) for each in devices),
        "places": {each.registration.name: str(each.registration.pci_address) for each in devices},
        "answered": sorted(each.registration.name for each in answers),
        "drivers": {address: host.driver(address) for address in DEVICES},
        "held": {
            guest.name: sorted(({*held(guest.config)} | {*held(guest.live)}) & {*DEVICES})
            for guest in host.guests.values()
        },
        "mdevs": {each.uuid: each.active for each in host.mediated_devices()},
        "vgpus": [str(each.registration.mdev) for each in devices if each.registration.mdev],
        "findings": [(each.id, each.message) for each in findings if each.severity != "ok"],
    }


def read(directory: Path) -> dict[str, Any]:
    """Return what the last look saw."""
    seen: dict[str, Any] = json.loads((directory / "seen.json").read_text())
    return seen


def copy(source: Path, target: Path) -> None:
    """Start again from the same state."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def _settings(host: FakeHost, directory: str) -> Settings:
    return Settings(
        uri=host.uri, registry=f"{directory}/registry.db", jwt_secret=SecretStr("s" * 64)
    )


def _write(directory: Path, seen: dict[str, Any]) -> None:
    (directory / "seen.json").write_text(json.dumps(seen))


def _save(host: FakeHost, directory: Path) -> None:
    state = {
        "drivers": {each.address: each.driver for each in host.functions()},
        "guests": {
            guest.name: {
                "uuid": guest.uuid,
                "config": guest.config is not None and show(guest.config),
                "live": guest.live is not None and show(guest.live),
                "detached": sorted(guest.detached_by_libvirt),
            }
            for guest in host.guests.values()
        },
        "mdevs": [
            (show(each.element), each.active, each.defined, each.autostart)
            for each in host.mediated_devices()
        ],
    }
    (directory / "host.json").write_text(json.dumps(state))


def _load(directory: Path) -> FakeHost:
    host = seed_host()
    host.uuid = UUID
    host.add_pci(TWIN, driver="nvidia", group=83)
    add_gpus(host)
    fake_libvirt.serve(host)
    if (file := directory / "host.json").exists():
        state = json.loads(file.read_text())
        for device in host.functions():
            device.driver = state["drivers"][device.address]
        for name, kept in state["guests"].items():
            guest = host.guest(name)
            del host.guests[guest.uuid]
            guest.uuid = kept["uuid"]
            host.guests[guest.uuid] = guest
            guest.config = parse(kept["config"]) if kept["config"] else None
            guest.live = parse(kept["live"]) if kept["live"] else None
            guest.detached_by_libvirt = set(kept["detached"])
        for xml, active, defined, autostart in state["mdevs"]:
            mdev = host.define_mdev(xml)
            if active:
                host.start_mdev(mdev)
            mdev.defined, mdev.autostart = defined, autostart
    return host
