"""The example settings: every key exists, and what it calls a default is one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from hypeman_libvirt.settings import Settings, load_settings

ROOT: Final = Path(__file__).parent.parent.parent
EXAMPLE: Final = ROOT / "contrib" / "config" / "config.toml"
NOT_IN_A_FILE_THAT_ALL_MAY_READ: Final = {"jwt_secret"}
TLS: Final = {"tls_cert", "tls_key", "tls_client_ca"}
_COMMENTED: Final = re.compile(r"^#(?=[a-z_]+ = )", re.MULTILINE)


@pytest.fixture
def uncommented(tmp_path: Path) -> Path:
    """The example with everything in it switched on."""
    file = tmp_path / "config.toml"
    file.write_text(_COMMENTED.sub("", EXAMPLE.read_text()))
    return file


def test_the_example_opens_the_host_and_keeps_the_defaults() -> None:
    settings = load_settings(EXAMPLE)
    assert settings.uri == "qemu:///system"
    assert settings.model_dump(exclude={"uri"}) == Settings().model_dump(exclude={"uri"})


def test_the_example_names_every_setting(uncommented: Path) -> None:
    named = tomllib.loads(uncommented.read_text()).keys()
    assert set(named) == Settings.model_fields.keys() - NOT_IN_A_FILE_THAT_ALL_MAY_READ


def test_what_it_shows_as_defaults_are_the_defaults(uncommented: Path) -> None:
    shown = load_settings(uncommented)
    assert shown.registry == load_settings(EXAMPLE).registry_location
    of_a_fleet = {"hub", "agent_url", "hub_token", "hub_ca"}
    examples = {
        "uri",
        "registry",
        "jwt_secret_file",
        "on_release",
        "dashboard",
        "server",
        *TLS,
        *of_a_fleet,
    }
    assert shown.model_dump(exclude=examples) == Settings().model_dump(exclude=examples)
