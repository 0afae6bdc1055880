"""libvirt's event loop: one of the process, as libvirt itself has only one."""

from __future__ import annotations

import logging
import threading
import time

import libvirt

_log = logging.getLogger(__name__)
_PAUSE = 1.0


class _EventLoop:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start it, and again should its thread have ended.

        That is before the first connection, or keepalive and events fail.

        Source: https://libvirt.org/html/libvirt-libvirt-event.html
        """
        with self._lock:
            if self._thread is None:
                libvirt.virEventRegisterDefaultImpl()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=_run, name="libvirt-events", daemon=True)
                self._thread.start()


def _run() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except Exception:  # noqa: BLE001 - without the loop keepalive and events end for ever
            _log.exception("libvirt's event loop failed; it goes on")
            time.sleep(_PAUSE)


def _be_quiet(_context: object, _error: tuple[object, ...]) -> None:
    """Take the place of libvirt's own handler, which prints every error on stderr."""


libvirt.registerErrorHandler(_be_quiet, None)
EVENT_LOOP = _EventLoop()
"""libvirt has one event loop for the process, not one for each connection."""
