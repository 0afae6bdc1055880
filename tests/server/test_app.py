from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from falcon.testing import TestClient
from pydantic import SecretStr

from hypeman_libvirt import Settings, create_app, create_service
from hypeman_libvirt.settings import SettingsError
from tests.fake_host import FakeHost

SECRET = "d41d8cd98f00b204e9800998ecf8427e"


@pytest.fixture
def settings(fake_host: FakeHost, tmp_path: Path) -> Settings:
    return Settings(
        uri=fake_host.uri, registry=str(tmp_path / "registry.db"), jwt_secret=SecretStr(SECRET)
    )


def test_an_app_is_made_of_settings(settings: Settings) -> None:
    client = TestClient(create_app(settings))
    assert client.simulate_get("/ready").status_code == 200
    assert client.simulate_get("/devices").status_code == 401


def test_without_auth_everybody_is_let_in(settings: Settings) -> None:
    client = TestClient(create_app(settings.model_copy(update={"auth": "off"})))
    assert client.simulate_get("/devices").json == []


def test_without_a_secret_nothing_is_opened(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no JWT secret"):
        create_app(settings.model_copy(update={"jwt_secret": None}))
    assert list(tmp_path.iterdir()) == []


def test_a_service_is_made_of_settings(settings: Settings) -> None:
    with closing(create_service(settings)) as service:
        service.ping()
        assert service.inventory.list_available()
