"""The commands of ``hypeman-libvirt devices`` against a service that runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from click.testing import CliRunner, Result

from tests.api.client import token
from tests.fake_host import FakeHost
from tests.world import world_on

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost

L4, GPU, NIC = "0000:a2:00.0", "0000:41:00.0", "0000:3b:00.0"


class Commands:
    """Runs commands against a URL, with a token."""

    def __init__(self, url: str, api_key: str) -> None:
        self._where = {"HYPEMAN_BASE_URL": url, "HYPEMAN_API_KEY": api_key, "COLUMNS": "20"}

    def run(self, *arguments: str) -> Result:
        from hypeman_libvirt.cli.main import cli  # noqa: PLC0415  # after the level was chosen

        return CliRunner().invoke(cli, ["devices", *arguments], env=self._where)

    def lines(self, *arguments: str) -> list[str]:
        done = self.run(*arguments)
        assert done.exit_code == 0, done.stderr
        return [line.rstrip() for line in done.stdout.splitlines()]

    def json(self, *arguments: str) -> Any:  # noqa: ANN401
        return json.loads("\n".join(self.lines(*arguments, "--json")))

    def refusal(self, *arguments: str, status: int = 1) -> str:
        done = self.run(*arguments)
        assert done.exit_code == status
        assert done.stdout == ""
        return done.stderr


@pytest.fixture
def url(libvirt_host: LibvirtHost, tmp_path: Path) -> Iterator[str]:
    from tests.api.whole_app import whole_app  # noqa: PLC0415
    from tests.server.running import running  # noqa: PLC0415

    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with world_on(libvirt_host, tmp_path) as world, running(whole_app(world)) as server:
        yield f"http://127.0.0.1:{server.port}"
    structlog.reset_defaults()


@pytest.fixture
def devices(url: str) -> Commands:
    return Commands(url, token())


def test_what_is_available_has_the_columns_of_hypemans_cli(devices: Commands) -> None:
    head, *rows = devices.lines("available")
    assert head.split("  ")[0] == "PCI ADDRESS"
    (l4,) = [row for row in rows if row.startswith(L4)]
    assert l4.split() == [L4, "NVIDIA", "Corporation", "AD104GL", "[L4]", "82", "nvidia", "-"]


def test_nothing_is_cut_where_nobody_looks(devices: Commands) -> None:
    assert any("NVIDIA Corporation  AD104GL [L4]" in line for line in devices.lines("available"))


def test_a_device_is_registered_listed_and_deleted(devices: Commands) -> None:
    (told,) = devices.lines("register", L4, "--name", "l4-gpu", "--tag", "team=ml")
    device = devices.json("get", "l4-gpu")
    assert told == f"registered l4-gpu (ID: {device['id']})"
    assert device["tags"] == {"team": "ml"}
    assert [each["name"] for each in devices.json("list", "--tag", "team=ml")] == ["l4-gpu"]
    assert devices.json("list", "--tag", "team=web") == []
    _, row = devices.lines("list")
    assert row.split() == [device["id"], "l4-gpu", "gpu", L4, "no", "-", "-", "present"]
    assert devices.lines("delete", L4) == [f"deleted {L4}"]
    assert devices.json("list") == []


def test_a_device_goes_to_vfio_into_a_domain_and_back(
    devices: Commands, fake_host: FakeHost
) -> None:
    devices.lines("register", GPU, "--name", "rtx")
    assert devices.lines("bind", "rtx", "--scope", "group") == ["rtx is on vfio-pci"]
    uuid = fake_host.guest("vm-off").uuid
    attached = devices.lines("attach", "rtx", "vm-off", "--scope", "group")
    assert attached == [f"rtx is attached to vm-off ({uuid})"]
    assert devices.lines("detach", "rtx") == ["rtx is free"]
    assert devices.lines("unbind", "rtx", "--scope", "group") == ["rtx is off vfio-pci"]
    assert fake_host.driver(GPU) == "nvidia"


def test_a_refusal_says_what_is_in_the_way_and_what_to_do(devices: Commands) -> None:
    devices.lines("register", GPU, "--name", "rtx")
    told = devices.refusal("bind", "rtx")
    assert "0000:41:00.1 (audio, driver snd_hda_intel)" in told
    assert "use --scope group (iommu_group_conflict)" in told


def test_what_the_host_lives_on_needs_force(devices: Commands, fake_host: FakeHost) -> None:
    devices.lines("register", NIC, "--name", "nic")
    assert "critical_device" in devices.refusal("bind", "nic")
    devices.lines("bind", "nic", "--force")
    assert fake_host.driver(NIC) == "vfio-pci"


def test_preflight_is_a_table_and_an_exit_status(devices: Commands) -> None:
    devices.lines("register", L4, "--name", "l4-gpu")
    devices.lines("register", GPU, "--name", "rtx")
    head, *rows = devices.lines("preflight", "l4-gpu")
    assert head.split() == ["ID", "SEVERITY", "MESSAGE", "NEXT", "STEP"]
    assert {row.split()[1] for row in rows} == {"ok"}
    blocked = devices.run("preflight", "rtx")
    assert blocked.exit_code == 1
    assert "error" in blocked.stdout


def test_groups_show_their_members(devices: Commands) -> None:
    _, *rows = devices.lines("groups", "25")
    assert [row.split()[:3] for row in rows] == [
        ["25", "after", "bind"],
        ["25", "after", "bind"],
    ]
    assert len(devices.json("groups")) == 4


@pytest.mark.parametrize("command", ["list", "available", "groups", "events"])
def test_without_a_token_the_message_says_so(url: str, command: str) -> None:
    told = Commands(url, "").refusal(command)
    assert "no token; set HYPEMAN_API_KEY or --api-key (unauthorized)" in told


def test_a_service_that_is_not_there_is_another_status() -> None:
    told = Commands("http://127.0.0.1:1", "").refusal("list", status=3)
    assert "no service answers at http://127.0.0.1:1" in told
    assert "HYPEMAN_BASE_URL" in told


def test_a_tag_without_a_value_is_wrong_usage(devices: Commands) -> None:
    assert "--tag" in devices.refusal("list", "--tag", "team", status=2)
