from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jwt
import pytest
from click.testing import CliRunner

from hypeman_libvirt import __version__
from hypeman_libvirt.cli.failures import explained_denial
from hypeman_libvirt.cli.main import cli
from hypeman_libvirt.cli.world import CommandWorld

SECRET = "d41d8cd98f00b204e9800998ecf8427e"
UNREADABLE = Path("/sys/bus/platform/drivers_probe")
"""Nobody may read it, root included: sysfs lets this file be written only."""


@pytest.fixture
def runner(tmp_path: Path) -> CliRunner:
    return CliRunner(env={"JWT_SECRET": SECRET, "HOME": str(tmp_path)})


def test_the_version(runner: CliRunner) -> None:
    assert runner.invoke(cli, ["--version"]).output == f"hypeman-libvirt {__version__}\n"


def test_a_token_is_signed_with_the_secret(runner: CliRunner) -> None:
    command = ["token", "--user-id", "alice", "--duration", "2h", "--permissions", "device:read"]
    printed = runner.invoke(cli, command)
    assert printed.exit_code == 0
    claims = jwt.decode(printed.stdout.strip(), SECRET, algorithms=["HS256"])
    assert claims["sub"] == "alice"
    assert claims["permissions"] == ["device:read"]
    assert claims["exp"] - claims["iat"] == 7200


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--duration", "soon"],
            "duration 'soon' is not a number and s, m, h, d or w",
        ),
        (["--permissions", "root"], "there is no permission 'root'; use device:read, "),
        (["--config", "/nonesuch.toml"], "there is no settings file /nonesuch.toml"),
    ],
)
def test_a_token_that_cannot_be_is_explained(
    runner: CliRunner, arguments: list[str], told: str
) -> None:
    refused = runner.invoke(cli, ["token", "--user-id", "alice", *arguments])
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith(f"hypeman-libvirt: {told}")


def test_no_token_without_a_secret(runner: CliRunner) -> None:
    refused = runner.invoke(cli, ["token", "--user-id", "alice"], env={"JWT_SECRET": ""})
    assert refused.exit_code == 2
    assert "export JWT_SECRET=$(openssl rand -hex 32)" in refused.stderr


def test_help_names_every_command(runner: CliRunner) -> None:
    listed = runner.invoke(cli, ["--help"]).output
    assert "serve" in listed
    assert "token" in listed


def test_the_packaged_secret_signs_tokens(tmp_path: Path) -> None:
    (tmp_path / "etc/hypeman-libvirt").mkdir(parents=True)
    (tmp_path / "etc/hypeman-libvirt/jwt-secret").write_text(f"{SECRET}\n")
    arguments = ["token", "--user-id", "alice", "--json"]
    printed = CliRunner(env={"JWT_SECRET": None}).invoke(cli, arguments, obj=CommandWorld(tmp_path))
    answer = json.loads(printed.stdout)
    assert jwt.decode(answer["token"], SECRET, algorithms=["HS256"])["sub"] == "alice"
    assert answer["sub"] == "alice"


@pytest.mark.parametrize(
    "command",
    [["serve"], ["token", "--user-id", "a"], ["doctor"], ["registry", "export"]],
    ids=lambda command: command[0],
)
def test_who_may_not_read_the_settings_is_told_whose_they_are(
    runner: CliRunner, command: list[str]
) -> None:
    refused = runner.invoke(cli, [*command, "--config", str(UNREADABLE)])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == (
        f"hypeman-libvirt: settings file: this user may not open {UNREADABLE}, which belongs to "
        "root:root (mode 0200); run the command with sudo\n"
    )


@pytest.mark.parametrize("command", [["serve"], ["token", "--user-id", "a"]], ids=lambda it: it[0])
def test_who_may_not_read_the_secret_is_told_whose_it_is(
    runner: CliRunner, command: list[str]
) -> None:
    settings = {"JWT_SECRET": None, "HYPEMAN_LIBVIRT_JWT_SECRET_FILE": str(UNREADABLE)}
    refused = runner.invoke(cli, command, env=settings)
    assert refused.exit_code == 2
    assert f"the JWT secret: this user may not open {UNREADABLE}, which belongs" in refused.stderr


def test_no_denial_is_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, explained_denial():
        UNREADABLE.read_text()
    assert ended.value.code == 2
    assert str(UNREADABLE) in capsys.readouterr().err


def test_the_demo_host_is_asked_for_in_words(runner: CliRunner) -> None:
    refused = runner.invoke(cli, ["serve", "--demo", "--uri", "qemu:///system"])
    assert refused.exit_code == 2
    assert "--demo names the host; leave --uri out" in refused.stderr


@pytest.mark.parametrize("command", ["serve", "doctor"])
def test_a_uri_that_can_never_work_ends_it(runner: CliRunner, command: str) -> None:
    refused = runner.invoke(cli, [command, "--uri", "qemu:///sytem"])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "no libvirt will ever answer at qemu:///sytem: try qemu:///system" in refused.stderr


@pytest.mark.parametrize("secret", ["hunter2", "-----BEGIN PUBLIC KEY-----" + "A" * 64])
def test_a_bad_secret_ends_it(runner: CliRunner, secret: str) -> None:
    for command in (["serve"], ["token", "--user-id", "a"]):
        refused = runner.invoke(cli, command, env={"JWT_SECRET": secret})
        assert refused.exit_code == 2
        assert "openssl rand -hex 32" in refused.stderr
        assert secret not in refused.stderr


@pytest.mark.parametrize("program", [["-m", "hypeman_libvirt"], ["-m", "hypeman_libvirt.cli.main"]])
def test_python_runs_it(program: list[str]) -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, *program, "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"hypeman-libvirt {__version__}\n"
