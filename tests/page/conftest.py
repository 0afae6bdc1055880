"""A real browser on a service that runs; only ``-m page`` selects these tests.

At the mock level the service is on ``fake_host``, where tests play virsh; at the level testdriver
on the demo host.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.api.client import token
from tests.world import World, world_on

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.page.views import HostPage

if importlib.util.find_spec("playwright") is None:
    collect_ignore_glob = ["test_*.py"]  # ``-m page`` then finds no test, which fails
PACKAGES: Final = ("axe-core@4", "typescript@5")
HERE: Final = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "page" not in re.findall(r"\w+", config.option.markexpr):
        ours = [item for item in items if item.get_closest_marker("page")]
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in set(ours)]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; skip, and say why, where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium")
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox needs a right that containers seldom give.
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where axe and TypeScript's compiler are; skip, and say why, where they cannot be had."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm")
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
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A service: on the demo host at the level testdriver, else on ``fake_host``."""
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415
    from hypeman_libvirt.host.test_driver import demo_uri  # noqa: PLC0415

    is_demo = request.config.getoption("--level") == "testdriver"
    uri = demo_uri() if is_demo else request.getfixturevalue("fake_host").uri
    with closing(open_host(uri)) as host, world_on(host, tmp_path) as world:
        yield world


@pytest.fixture
def url(world: World) -> Iterator[str]:
    """Where that service is served."""
    from tests.page.serving import serving  # noqa: PLC0415  # after the level was chosen

    with serving(world) as server:
        yield f"http://127.0.0.1:{server.port}"


OpenPage = Callable[..., "HostPage"]


@pytest.fixture
def open_page(browser: Browser, url: str) -> Iterator[OpenPage]:
    """Opens pages, and fails where one breaks a rule of its policy or an error is not caught."""
    from tests.page.views import HostPage  # noqa: PLC0415

    contexts: list[Any] = []
    pages: list[HostPage] = []

    def open_one(
        token_: str | None = "",
        *,
        keep: bool = False,
        base: str = url,
        **options: Any,  # noqa: ANN401
    ) -> HostPage:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = HostPage(context.new_page(), base)
        pages.append(page)
        page.open()
        if token_ is not None:
            page.sign_in(token_ or token(sub=f"operator-{len(pages)}"), keep=keep)
            page.wait_for_picture()
        return page

    yield open_one
    broken = [each for page in pages for each in page.broken]
    for context in contexts:
        context.close()
    assert not broken
