"""The service and all that it imports, as one directory that runs inside the lab."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent.parent
PORT = 8080
"""Where the service listens inside; the lab says where that is outside."""
_NAME = re.compile(r"[\w.-]+")


def gather(directory: Path) -> None:
    """Copy the package of the checkout and its installed dependencies into a directory.

    Byte code goes along, with the times that it is valid for: compiling it inside takes minutes.
    """
    shutil.copytree(CHECKOUT / "hypeman_libvirt", directory / "hypeman_libvirt")
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    for each in _closure(project["dependencies"], set()):
        for file in each.files or ():
            source = Path(str(file.locate()))
            if ".." not in file.parts and source.exists():
                target = directory / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)


def _closure(requirements: list[str], seen: set[str]) -> Iterator[Distribution]:
    """Iterate over what the requirements need; an extra's are left out."""
    for requirement in requirements:
        match = _NAME.match(requirement)
        if match is None or "extra ==" in requirement or match[0].lower() in seen:
            continue
        seen.add(match[0].lower())
        try:
            found = distribution(match[0])
        except ModuleNotFoundError:  # for another platform or Python
            continue
        yield found
        yield from _closure(found.requires or [], seen)
