"""``/ui/``: the files of the page, as they are in the package."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

import falcon

from hypeman_libvirt.devices.errors import NotFoundError

_INDEX: Final = "index.html"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing inline, nothing from elsewhere, no frame around it, and no text ever becomes markup.

Source: https://www.w3.org/TR/CSP3/, https://www.w3.org/TR/trusted-types/
"""
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # ask each time; the answer is 304 for as long as nothing changed
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    content_type: str
    etag: str


class Page:
    """Serves the files of the page from memory; no path of a request is looked up on disk."""

    def __init__(self, directory: Traversable | None = None) -> None:
        """Read every file once.

        Args:
            directory: With the files; None for that of the package.
        """
        root = directory or files("hypeman_libvirt") / "web"
        self._files = {name: _read(name, file) for name, file in _walk(root, "")}

    @property
    def names(self) -> frozenset[str]:
        """Paths of the files, below ``/ui/``."""
        return frozenset(self._files)

    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str = _INDEX) -> None:
        """Answer with a file, or with 304 where the browser has it."""
        file = self._files.get(name)
        if file is None:
            raise NotFoundError("the page has no such file", hint="open /ui/")
        resp.set_headers(_HEADERS)
        resp.etag = file.etag
        if any(each in {"*", file.etag} for each in req.if_none_match or ()):
            resp.status = falcon.HTTP_304
            return
        resp.content_type = file.content_type
        resp.data = file.content

    def on_get_bare(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Send a browser from ``/ui`` to ``/ui/``, below which the files are."""
        resp.status = falcon.HTTP_308
        resp.set_header("Location", "ui/")


def _walk(directory: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for each in directory.iterdir():
        if each.is_dir():
            yield from _walk(each, f"{prefix}{each.name}/")
        elif each.name.endswith(tuple(_TYPES)):
            yield prefix + each.name, each


def _read(name: str, file: Traversable) -> _File:
    content = file.read_bytes()
    ending = name[name.rindex(".") :]
    return _File(content, _TYPES[ending], hashlib.sha256(content).hexdigest()[:32])
