"""Ours on the fake libvirt of the tests, in which a detach from a host driver never returns."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import fake_libvirt
from tests.fake_host import FakeHost

sys.modules["libvirt"] = fake_libvirt


def main() -> None:
    """Serve on the port of the first argument."""
    from hypeman_libvirt.server import serve as server  # noqa: PLC0415 - after libvirt has been chosen
    from hypeman_libvirt.settings import load_settings  # noqa: PLC0415

    host = FakeHost()
    host.add_pci("0000:01:00.0", product="27b8", driver="nvidia", group=1)
    host.add_pci("0000:02:00.0", product="27b8", driver="nvidia", group=2)
    host.hang("detachFlags")
    fake_libvirt.serve(host)
    with tempfile.TemporaryDirectory() as directory:
        flags = {
            "listen": f"127.0.0.1:{sys.argv[1]}",
            "uri": host.uri,
            "registry": f"{directory}/registry.db",
            "operation_timeout": "1",
        }
        server.serve(load_settings(None, flags))


if __name__ == "__main__":
    main()
