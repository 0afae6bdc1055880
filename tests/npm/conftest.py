"""hypeman's npm client, installed once for the run; only ``-m npm`` selects these tests."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.api.demo_service import demo_service

PACKAGES: Final = ("@onkernel/hypeman@~0.28", "typescript@5", "@types/node@20")
_OLDEST_NODE: Final = 18


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "npm" not in re.findall(r"\w+", config.option.markexpr):
        ours = [item for item in items if item.get_closest_marker("npm")]
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in set(ours)]


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the client is installed; skip, and say why, where it cannot be."""
    npm = shutil.which("npm")
    if npm is None or _node_version() < _OLDEST_NODE:
        pytest.skip(f"needs Node {_OLDEST_NODE} or newer, and npm")
    directory = tmp_path_factory.mktemp("npm")
    quiet = ("--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts")
    done = subprocess.run(  # noqa: S603  # npm, with packages that are named here
        [npm, "install", *quiet, "--prefix", directory, *PACKAGES],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"npm cannot install {' '.join(PACKAGES)}: {done.stderr.strip()[-300:]}")
    return directory / "node_modules"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A service on the demo host."""
    with demo_service(tmp_path) as url:
        yield url


def _node_version() -> int:
    node = shutil.which("node")
    if node is None:
        return 0
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)  # noqa: S603
    return int(said.stdout.removeprefix("v").partition(".")[0])
