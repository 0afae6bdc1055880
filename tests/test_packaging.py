"""What an installed package has, and what it needs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked where nothing of the checkout is near."""
    directory = tmp_path_factory.mktemp("installed")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(directory), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory / "site-packages")
    return directory / "site-packages"


def test_the_mock_level_needs_all_but_libvirt() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    without_libvirt = [each for each in project["dependencies"] if "libvirt" not in each]
    lines = (ROOT / "tests" / "requirements-mock.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == without_libvirt


@pytest.mark.parametrize(
    ("in_wheel", "in_checkout"),
    [
        ("openapi.yaml", "api/openapi.yaml"),
        ("demo-host.xml", "contrib/demo/host.xml"),
        ("web/index.html", "hypeman_libvirt/web/index.html"),
        ("web/vendor/preact-htm.js", "hypeman_libvirt/web/vendor/preact-htm.js"),
        ("py.typed", "hypeman_libvirt/py.typed"),
        ("registry/migrations/env.py", "hypeman_libvirt/registry/migrations/env.py"),
    ],
)
def test_the_wheel_has_what_the_service_reads(
    installed: Path, in_wheel: str, in_checkout: str
) -> None:
    shipped = (installed / "hypeman_libvirt" / in_wheel).read_bytes()
    assert shipped == (ROOT / in_checkout).read_bytes()


def test_a_registry_opens_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import hypeman_libvirt.registry as registry; "
        "assert registry.__file__.startswith(sys.argv[1]); registry.SqlRegistry(sys.argv[2]).ping()"
    )
    subprocess.run(  # noqa: S603  # our own script
        [sys.executable, "-I", "-c", script, installed, tmp_path / "registry.db"], check=True
    )


def test_importing_the_package_needs_no_libvirt(installed: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.modules['libvirt'] = None; "
        "import hypeman_libvirt; assert hypeman_libvirt.__version__; hypeman_libvirt.Settings"
    )
    subprocess.run(  # noqa: S603  # our own script
        [sys.executable, "-I", "-c", script, installed], check=True
    )
