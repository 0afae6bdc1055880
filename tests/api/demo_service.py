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
    from hypeman_libvirt.bootstrap import (  # noqa: PLC0415  # needs libvirt
        build_app,
        build_service,
        create_auth,
        open_world,
    )
    from hypeman_libvirt.settings import Settings  # noqa: PLC0415
    from tests.server.running import running  # noqa: PLC0415

    settings = Settings(registry=str(directory / "registry.db"), jwt_secret=SecretStr(SECRET))
    world = open_world(settings)
    with (
        closing(build_service(settings, world)) as service,
        running(build_app(settings, world, service, create_auth(settings))) as server,
    ):
        yield f"http://127.0.0.1:{server.port}"
