"""The yardstick: Falcon on waitress, one constant Device. Imports what ours imports."""

from __future__ import annotations

import sys

import alembic  # noqa: F401 - as large as ours before it does anything
import click  # noqa: F401
import cuid2  # noqa: F401
import falcon
import jwt  # noqa: F401
import libvirt  # noqa: F401
import lxml.etree  # noqa: F401
import prometheus_client  # noqa: F401
import pydantic_settings  # noqa: F401
import pyroute2  # noqa: F401
import rich  # noqa: F401
import sqlalchemy
import sqlalchemy.dialects.sqlite  # noqa: F401
import structlog  # noqa: F401
import waitress
import yaml  # noqa: F401

DEVICE = {
    "id": "tz4a98xxat96iws9zmbrgj3a",
    "bound_to_vfio": False,
    "created_at": "2025-01-15T10:00:00Z",
    "device_id": "27b8",
    "iommu_group": 82,
    "pci_address": "0000:a2:00.0",
    "type": "gpu",
    "vendor_id": "10de",
    "attached_to": None,
    "name": "l4-gpu",
}


class Device:
    """One answer for every device."""

    def on_get(self, _: falcon.Request, resp: falcon.Response, reference: str) -> None:
        """Answer."""
        del reference
        resp.media = DEVICE


def main() -> None:
    """Serve on the port of the first argument with the threads of the second."""
    if len(sys.argv) == 1:
        return  # only imported: the yardstick of a start
    app = falcon.App()
    app.add_route("/devices/{reference}", Device())
    waitress.serve(app, listen=f"127.0.0.1:{sys.argv[1]}", threads=int(sys.argv[2]))


if __name__ == "__main__":
    main()
