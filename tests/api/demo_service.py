"""The service on the demo host, on a port of its own, for clients that speak HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pydantic import SecretStr

from tests.api.client import SECRET


@contextmanager
def demo_service(directory: Path) -> Iterator[str]:
    """Serve with the registry in the directory; yield the URL."""
    from hypeman_libvirt.bootstrap import create_auth, create_service  # noqa: PLC0415  # needs libvirt
    from hypeman_libvirt.rest.routes import own_app  # noqa: PLC0415
    from hypeman_libvirt.settings import Settings  # noqa: PLC0415
    from tests.server.running import running  # noqa: PLC0415

    settings = Settings(registry=str(directory / "registry.db"), jwt_secret=SecretStr(SECRET))
    with (
        closing(create_service(settings)) as service,
        running(own_app(service, create_auth(settings))) as server,
    ):
        yield f"http://127.0.0.1:{server.port}"
