"""``/metrics``: for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import falcon

_TEXT_FORMAT: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Source: https://prometheus.io/docs/instrumenting/exposition_formats/"""


class Scrape:
    """Hands out the metrics."""

    def __init__(self, render: Callable[[], bytes]) -> None:
        """Take who writes them down."""
        self._render = render

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Hand them out as they are now."""
        resp.content_type = _TEXT_FORMAT
        resp.data = self._render()
