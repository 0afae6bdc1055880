from __future__ import annotations

from pathlib import Path

import jwt
import pytest
from click.testing import CliRunner

from hypeman_libvirt import __version__
from hypeman_libvirt.cli.main import cli

SECRET = "d41d8cd98f00b204e9800998ecf8427e"


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
