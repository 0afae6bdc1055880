"""``/health``, ``/ready``, ``/spec.yaml`` and ``/spec.json``: the service about itself."""

from __future__ import annotations

import json
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import falcon
import yaml

from hypeman_libvirt.devices.service import Answering
from hypeman_libvirt.rest.responses import answer_with
from hypeman_libvirt.rest.schemas import StatusOut


class Health:
    """Answers whether the service runs, and whether it can work."""

    def __init__(self, service: Answering) -> None:
        """Ask this service."""
        self._service = service

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer, which is all that is asked."""
        answer_with(resp, StatusOut(status="ok"))

    def on_get_ready(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer once what the service cannot do without has."""
        self._service.ping()
        answer_with(resp, StatusOut(status="ok"))


class Spec:
    """Answers with the OpenAPI document."""

    def on_get_yaml(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the file itself."""
        resp.content_type = "application/yaml"
        resp.data = self._yaml

    def on_get_json(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with it as JSON."""
        resp.content_type = falcon.MEDIA_JSON
        resp.data = self._json

    @cached_property
    def _yaml(self) -> bytes:
        return document_path().read_bytes()

    @cached_property
    def _json(self) -> bytes:
        return json.dumps(yaml.safe_load(self._yaml)).encode()


def document_path() -> Path:
    """Return where the OpenAPI document is, installed or in a checkout."""
    package = Path(str(files("hypeman_libvirt")))
    installed = package / "openapi.yaml"
    return installed if installed.exists() else package.parent / "api" / "openapi.yaml"
