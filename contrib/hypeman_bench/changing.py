"""Changes on the fake libvirt of the tests, whose domains' files are on disk as libvirt's are.

It prints as JSON, by operation and number of domains, the seconds that one took (the median) and
the calls to libvirt that it made. The fake takes as long for a call as a libvirtd on a Unix socket
does for a short one; it is quicker with what libvirtd must write to disk.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import fake_libvirt
from tests.fake_host import FakeHost

sys.modules["libvirt"] = fake_libvirt

if TYPE_CHECKING:
    from tests.world import World

GPU = "0000:01:00.0"
CALL = 0.0001
"""Seconds that a call takes."""
SETTLE = 3.0
"""Seconds after which the files of domains that were just defined count as they are."""


class Changes:
    """One service on one host, and what its operations took."""

    def __init__(self, host: FakeHost, world: World) -> None:
        """Measure nothing yet."""
        from tests.world import OPERATOR  # noqa: PLC0415 - after libvirt has been chosen

        self._host = host
        service = world.service
        self.operations = {
            "register": lambda: service.register(GPU, "gpu", {}, OPERATOR),
            "bind": lambda: service.bind("gpu", "device", OPERATOR),
            "attach": lambda: service.attach("gpu", "vm-0", "device", OPERATOR),
            "detach": lambda: service.detach("gpu", OPERATOR),
            "attach, running": lambda: service.attach("gpu", "running", "device", OPERATOR),
            "detach, running": lambda: service.detach("gpu", OPERATOR),
            "unbind": lambda: service.unbind("gpu", "device", OPERATOR),
            "unregister": lambda: service.unregister("gpu", OPERATOR),
        }
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.calls: dict[str, int] = {}

    def run_once(self) -> None:
        """Run each operation once, in the order of a device's life."""
        for name, operate in self.operations.items():
            before = self._host.calls.total()
            began = time.perf_counter()
            operate()
            self.seconds[name].append(time.perf_counter() - began)
            self.calls[name] = self._host.calls.total() - before


@contextmanager
def changes_among(domains: int, directory: Path) -> Iterator[Changes]:
    """Run a service on a host with so many domains, all but one of them shut off."""
    from hypeman_libvirt.host.cache.domain_files import DomainDirectories  # noqa: PLC0415
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415
    from tests.world import world_on  # noqa: PLC0415

    directory.mkdir()
    host = FakeHost()
    host.add_pci(GPU, product="27b8", driver="nvidia", group=1)
    host.add_domain("running", running=True)
    for number in range(domains - 1):
        host.add_domain(f"vm-{number}")
    files = host.keep_files(directory / "libvirt", long_ago=False)
    host.before_call = lambda _: time.sleep(CALL)
    fake_libvirt.serve(host)
    directories = DomainDirectories(files.definitions, files.states)
    opened = open_host(host.uri, directories=directories)
    with closing(opened), world_on(opened, directory) as world:
        yield Changes(host, world)
    fake_libvirt.forget(host)


def measure(numbers: Sequence[int], seconds: float) -> dict[str, dict[int, tuple[float, int]]]:
    """Run the operations among so many domains in turn, so that a busy moment meets all alike."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        hosts = {
            each: stack.enter_context(changes_among(each, Path(directory) / str(each)))
            for each in numbers
        }
        time.sleep(SETTLE)
        for each in hosts.values():
            each.run_once()
            each.seconds.clear()
        end = time.monotonic() + seconds
        while True:
            for each in hosts.values():
                each.run_once()
            if time.monotonic() > end:
                break
        return {
            name: {
                number: (statistics.median(each.seconds[name]), each.calls[name])
                for number, each in hosts.items()
            }
            for name in next(iter(hosts.values())).operations
        }


if __name__ == "__main__":
    seconds, *domains = sys.argv[1:]
    print(json.dumps(measure([int(each) for each in domains], float(seconds))))
