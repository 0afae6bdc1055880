"""Writing answers."""

from __future__ import annotations

from collections.abc import Sequence

import falcon
from pydantic import BaseModel

from hypeman_libvirt.rest.schemas import to_json


def answer_with(resp: falcon.Response, body: BaseModel | Sequence[BaseModel]) -> None:
    """Answer with JSON, whatever the app's own default is."""
    resp.content_type = falcon.MEDIA_JSON
    resp.data = to_json(body)
