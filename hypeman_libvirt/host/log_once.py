"""Warnings that are written once and not with every request."""

from __future__ import annotations

import logging


class LogOnce:
    """Warns of each subject once, until it was well in between. Safe between threads."""

    def __init__(self, log: logging.Logger) -> None:
        """Write to this log."""
        self._log = log
        self._warned: set[str] = set()

    def warn(self, subject: str, message: str, *arguments: object) -> None:
        """Warn of a subject."""
        if subject not in self._warned:
            self._warned.add(subject)
            self._log.warning(message, *arguments)

    def is_well(self, subject: str) -> None:
        """Warn of it again the next time."""
        self._warned.discard(subject)
