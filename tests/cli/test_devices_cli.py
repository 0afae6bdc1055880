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
from tests.fake_helper import FakeRootHelper
from tests.fake_host import FakeHost
from tests.world import world_on

if TYPE_CHECKING:
    from hypeman_libvirt.host.libvirt_host import LibvirtHost

L4, GPU, NIC = "0000:a2:00.0", "0000:41:00.0", "0000:3b:00.0"


class Commands:
    """Runs commands against a URL, with a token."""

    def __init__(self, url: str, api_key: str) -> None:
        self.where = {"HYPEMAN_BASE_URL": url, "HYPEMAN_API_KEY": api_key, "COLUMNS": "20"}

    def run(self, *arguments: str) -> Result:
        from hypeman_libvirt.cli.main import cli  # noqa: PLC0415  # after the level was chosen

        return CliRunner().invoke(cli, ["devices", *arguments], env=self.where)

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
def url(libvirt_host: LibvirtHost, fake_host: FakeHost, tmp_path: Path) -> Iterator[str]:
    from tests.api.whole_app import whole_app  # noqa: PLC0415
    from tests.server.running import running  # noqa: PLC0415

    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    helper = FakeRootHelper(fake_host)
    with (
        world_on(libvirt_host, tmp_path, helper=helper) as world,
        running(whole_app(world)) as server,
    ):
        yield f"http://127.0.0.1:{server.port}"
    structlog.reset_defaults()


@pytest.fixture
def devices(url: str) -> Commands:
    return Commands(url, token())


def test_what_is_available_has_the_columns_of_hypemans_cli(devices: Commands) -> None:
    head, *rows = devices.lines("available")
    assert head.split("  ")[0] == "PCI ADDRESS"
    (l4,) = [row for row in rows if row.startswith(L4)]
    shown = [L4, "NVIDIA", "Corporation", "AD104GL", "[L4]", "82", "nvidia", "-", "ok"]
    assert l4.split() == shown


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
    assert row.split() == [device["id"], "l4-gpu", "gpu", L4, "no", "-", "-", "present", "ok"]
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


def test_a_card_is_where_the_operator_says(devices: Commands, fake_host: FakeHost) -> None:
    for bus in ("51", "52"):
        fake_host.add_pci(f"0000:{bus}:00.0", product="2684", group=int(bus), driver="nvidia")
    devices.lines("register", "0000:51:00.0", "--name", "left")
    fake_host.add_pci("0000:53:00.0", product="2684", group=53, driver="nvidia")
    refused = devices.refusal("bind", "left")
    assert "hypeman-libvirt devices move NAME --pci-address ADDRESS says so" in refused
    moved = devices.lines("move", "left", "--pci-address", "0000:53:00.0")
    assert moved == ["left is at 0000:53:00.0"]
    assert devices.lines("bind", "left") == ["left is on vfio-pci"]


def test_a_device_that_did_not_come_back_is_cleared(devices: Commands, fake_host: FakeHost) -> None:
    devices.lines("register", L4, "--name", "l4-gpu", "--require-clean")
    devices.lines("attach", "l4-gpu", "vm-off")
    devices.lines("detach", "l4-gpu")
    assert "quarantined" in devices.lines("list")[1]
    refused = devices.refusal("attach", "l4-gpu", "vm-on")
    assert "domain vm-off has used it" in refused
    assert "hypeman-libvirt devices clear NAME ends" in refused
    assert devices.lines("clear", "l4-gpu") == ["l4-gpu is offered again"]
    devices.lines("attach", "l4-gpu", "vm-on")
    assert fake_host.driver(L4) == "vfio-pci"


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


def test_preflight_for_bind_asks_what_bind_would_ask(
    devices: Commands, fake_host: FakeHost
) -> None:
    devices.lines("register", L4, "--name", "l4-gpu")
    fake_host.virsh_attach("vm-off", L4, live=False)
    for reference in ("l4-gpu", L4):
        assert devices.run("preflight", reference).exit_code == 1
        assert devices.run("preflight", reference, "--for", "attach").exit_code == 1
        assert devices.run("preflight", reference, "--for", "bind").exit_code == 0
    assert "'attach', 'bind'" in devices.refusal("preflight", L4, "--for", "lunch", status=2)


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


def test_hypemans_spellings_do_the_same(devices: Commands) -> None:
    from hypeman_libvirt.cli.main import cli  # noqa: PLC0415  # after the level was chosen

    devices.lines("register", "--pci-address", L4, "--name", "l4-gpu")
    shown = devices.lines("show", "l4-gpu")
    assert shown == devices.lines("get", "l4-gpu")
    assert devices.lines("ls") == devices.lines("list")
    singular = CliRunner().invoke(cli, ["device", "ls", "--json"], env=devices.where)
    assert [each["name"] for each in json.loads(singular.stdout)] == ["l4-gpu"]
    assert devices.json("rm", "l4-gpu") == {"deleted": "l4-gpu"}


@pytest.mark.parametrize("arguments", [[], [L4, "--pci-address", L4]])
def test_one_address_is_registered(devices: Commands, arguments: list[str]) -> None:
    assert "give one PCI address" in devices.refusal("register", *arguments, status=2)


@pytest.mark.parametrize("reference", [NIC, "pci_0000_3b_00_0", NIC.upper()])
def test_preflight_of_what_is_not_registered(devices: Commands, reference: str) -> None:
    done = devices.run("preflight", reference, "--json")
    answer = json.loads(done.stdout)
    assert done.exit_code == (0 if answer["ready"] else 1)
    assert f"{NIC} is in IOMMU group 30" in [each["message"] for each in answer["checks"]]


def test_preflight_of_what_is_no_address_says_what_is_registered(devices: Commands) -> None:
    told = devices.refusal("preflight", "nonesuch")
    assert "no device 'nonesuch' is registered; hypeman-libvirt devices list" in told


def test_hostdev_is_what_virsh_takes(devices: Commands) -> None:
    devices.lines("register", L4, "--name", "l4-gpu")
    xml = devices.run("hostdev", "l4-gpu").stdout
    assert xml.startswith("<hostdev ")
    assert 'bus="0xa2"' in xml
    assert devices.json("hostdev", "l4-gpu") == {"hostdev_xml": xml}


def test_the_domain_is_named_beside_its_uuid(devices: Commands, fake_host: FakeHost) -> None:
    devices.lines("register", L4, "--name", "l4-gpu")
    devices.lines("attach", "l4-gpu", "vm-off")
    (device,) = devices.json("list")
    assert (device["attached_to"], device["attached_domain"]) == (
        fake_host.guest("vm-off").uuid,
        "vm-off",
    )
    for command in (["list"], ["available"], ["groups", "82"]):
        (row,) = [each for each in devices.lines(*command) if L4 in each]
        assert "vm-off" in row.split()


def test_an_empty_list_says_what_to_do(devices: Commands) -> None:
    done = devices.run("list")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == (
        "no device is registered; hypeman-libvirt devices available lists what can be\n"
    )
    assert "no device has these tags" in devices.run("list", "--tag", "a=b").stderr
    assert devices.json("list") == []


@pytest.mark.parametrize("command", ["available", "groups"])
def test_a_host_without_an_iommu_says_why_nothing_is_listed(
    devices: Commands, fake_host: FakeHost, command: str
) -> None:
    for address in (L4, GPU, NIC, "0000:41:00.1", "0000:a1:01.0"):
        fake_host.vanish(address)
    done = devices.run(command)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "this host has no IOMMU group, so nothing can be passed through" in done.stderr
    assert devices.json(command) == []


def test_a_group_needs_a_bind_or_never_can(devices: Commands) -> None:
    viable = {each.split()[0]: each.split()[1:3] for each in devices.lines("groups")[1:]}
    assert viable["25"] == ["after", "bind"]
    assert viable["81"][0] == "never"
    assert "only bridges, which stay with the host" in "".join(devices.lines("groups", "81"))
    devices.lines("register", GPU, "--bind", "group")
    assert devices.lines("groups", "25")[1].split()[1] == "yes"
    assert [each["status"] for each in devices.json("groups")] == [
        "viable",
        "needs_bind",
        "never",
        "needs_bind",
    ]


@pytest.mark.parametrize("url", ["ftp://host", "unix:relative", "http://host:port"])
def test_a_place_that_is_none_is_wrong_usage(url: str) -> None:
    assert "hypeman-libvirt: --base-url: " in Commands(url, "").refusal("list", status=2)


def test_a_message_cannot_move_the_cursor(devices: Commands) -> None:
    told = devices.refusal("get", "\x1b]0;OWNED\x07")
    assert "\x1b" not in told


def test_a_device_is_renamed_and_tagged(devices: Commands) -> None:
    devices.lines("register", L4, "--name", "l4-gpu", "--tag", "team=ml", "--tag", "env=prod")
    assert devices.lines("rename", "l4-gpu", "l4") == ["l4-gpu is l4 now"]
    assert devices.lines("tag", "l4", "env=test", "rack=7", "--remove", "team") == [
        "l4 has env=test, rack=7"
    ]
    assert devices.json("tag", "l4", "--remove", "env", "--remove", "rack")["name"] == "l4"
    assert "tags" not in devices.json("get", "l4")
    assert "give KEY=VALUE or --remove KEY" in devices.refusal("tag", "l4", status=2)
    assert "KEY=VALUE" in devices.refusal("tag", "l4", "team", status=2)


def test_a_name_that_is_taken_is_refused(devices: Commands) -> None:
    devices.lines("register", L4, "--name", "l4-gpu")
    devices.lines("register", NIC, "--name", "nic")
    assert "name 'nic' is taken" in devices.refusal("rename", "l4-gpu", "nic")


def test_virtual_functions_are_listed_made_and_taken_away(
    devices: Commands, fake_host: FakeHost
) -> None:
    fake_host.add_pci("0000:3d:00.0", class_code="020000", driver="igb", group=60, max_vfs=7)
    assert devices.lines("vfs", "0000:3d:00.0")[0] == "0 of 7 virtual functions"
    head, columns, first, second = devices.lines("vfs", "0000:3d:00.0", "--count", "2", "--persist")
    assert head == "2 of 7 virtual functions, made at boot"
    assert columns.split("  ")[0] == "PCI ADDRESS"
    assert first.split() == ["0000:3d:02.0", "-", "-", "-"]
    assert second.split()[0] == "0000:3d:02.1"
    assert devices.json("vfs", "0000:3d:00.0", "--count", "0")["functions"] == []
    assert "has at most 7" in devices.refusal("vfs", "0000:3d:00.0", "--count", "8")
    assert "need --count" in devices.refusal("vfs", "0000:3d:00.0", "--persist", status=2)


def test_a_device_persists_until_it_is_given_back(devices: Commands) -> None:
    devices.lines("register", L4, "--name", "l4", "--bind", "device", "--persist")
    assert devices.json("get", "l4")["persistent"] is True
    devices.lines("unbind", "l4")
    assert "persistent" not in devices.json("get", "l4")
    devices.lines("bind", "l4", "--persist")
    assert devices.json("get", "l4")["persistent"] is True
    assert "say --bind device as well" in devices.refusal("register", GPU, "--persist")
