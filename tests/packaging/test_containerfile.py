"""The Containerfile, as far as can be told without building it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

from hypeman_libvirt.settings import Settings

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "contrib" / "packaging" / "Containerfile").read_text()


def test_everything_that_the_wheel_is_made_of_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    made_of = {
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
        *wheel["packages"],
        *wheel["force-include"],
    }
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", TEXT, re.MULTILINE)
    copied = [Path(source) for line in lines for source in line.split()]
    missing = {path for path in made_of if not any(Path(path).is_relative_to(c) for c in copied)}
    assert not missing
    assert all((ROOT / source).exists() for source in copied)


def test_its_settings_are_settings() -> None:
    names = re.findall(r"\bHYPEMAN_LIBVIRT_([A-Z_]+)=", TEXT)
    assert names
    assert {name.lower() for name in names} <= set(Settings.model_fields)
