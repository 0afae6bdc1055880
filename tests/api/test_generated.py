"""Random requests, valid and not, get what the document promises."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.api.client import token
from tests.api.document import ROOT
from tests.api.whole_app import whole_app
from tests.fake_host import FakeHost
from tests.world import World

CONFIG = ROOT / "tests" / "api" / "schemathesis.toml"


@pytest.mark.openapi
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.skipif(find_spec("schemathesis") is None, reason="needs schemathesis")
def test_whatever_is_sent_the_document_holds(
    world: World, fake_host: FakeHost, tmp_path: Path, seed: int
) -> None:
    from tests.server.running import running  # noqa: PLC0415  # after the level was chosen

    fake_host.add_domain("training")  # the one of the document's example
    with running(whole_app(world)) as server:
        url = f"http://127.0.0.1:{server.port}"
        done = subprocess.run(  # noqa: S603  # a tool of this environment
            [
                *(Path(sys.executable).with_name("schemathesis"), "--config-file", CONFIG),
                *("run", f"{url}/spec.json", "--url", url, "--no-color"),
                *("--header", f"Authorization: Bearer {token()}"),
                *("--max-examples", "50", "--seed", str(seed)),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested: 31" in done.stdout
