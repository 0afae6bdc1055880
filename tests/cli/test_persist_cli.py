"""``hypeman-libvirt persist --show``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from click.testing import CliRunner

from tests.fake_helper import FakeRootHelper
from tests.fake_host import FakeHost
from tests.world import OPERATOR, world_on

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost


def test_it_prints_what_the_helper_writes(
    libvirt_host: LibvirtHost, fake_host: FakeHost, tmp_path: Path
) -> None:
    from hypeman_libvirt.cli.main import cli  # noqa: PLC0415  # after the level was chosen
    from hypeman_libvirt.helper.boot_rules import format_rules  # noqa: PLC0415

    helper = FakeRootHelper(fake_host)
    with world_on(libvirt_host, tmp_path, helper=helper) as world:
        world.service.register("0000:a2:00.0", "l4", {}, OPERATOR, "device", persist=True)
    where = ["--uri", fake_host.uri, "--registry", str(tmp_path / "registry.db")]
    done = CliRunner().invoke(cli, ["persist", "--show", *where])
    assert done.exit_code == 0, done.stderr
    assert done.stdout == format_rules(list(helper.rules.values()))
    assert 'KERNEL=="0000:a2:00.0"' in done.stdout
    assert CliRunner().invoke(cli, ["persist", *where]).exit_code == 2
