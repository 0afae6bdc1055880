from __future__ import annotations

from pathlib import Path

import falcon
import falcon.testing
import pytest

from hypeman_libvirt import init_app
from hypeman_libvirt.host.libvirt_host import LibvirtHost
from hypeman_libvirt.settings import SettingsError
from tests.world import world_on


def test_without_auth_it_asks_for_tokens_of_the_environments_secret(
    libvirt_host: LibvirtHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JWT_SECRET", "s" * 64)
    app = falcon.App()
    with world_on(libvirt_host, tmp_path) as world:
        init_app(app, world.service, "/gpu")
        assert falcon.testing.simulate_get(app, "/gpu/devices").status_code == 401


def test_without_auth_and_secret_nothing_is_mounted(
    libvirt_host: LibvirtHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JWT_SECRET", raising=False)
    app = falcon.App()
    with world_on(libvirt_host, tmp_path) as world, pytest.raises(SettingsError):
        init_app(app, world.service)
    assert falcon.testing.simulate_get(app, "/devices").status_code == 404
