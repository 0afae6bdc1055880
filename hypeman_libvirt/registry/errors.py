"""Why a registry cannot be opened, and what a database's error means to a client."""

from __future__ import annotations

import sqlite3
from typing import Final

_REASONS: Final = {
    sqlite3.SQLITE_BUSY: "another process keeps it locked; try again",
    sqlite3.SQLITE_LOCKED: "another process keeps it locked; try again",
    sqlite3.SQLITE_FULL: "its file system is full; make room, then try again",
    sqlite3.SQLITE_READONLY: "it is read-only; check its owner, its mode and its file system",
    sqlite3.SQLITE_PERM: "its owner or mode forbids it; check both",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened; check that it is there and its mode",
    sqlite3.SQLITE_IOERR: "its disk reports an I/O error; see the kernel's log",
    sqlite3.SQLITE_CORRUPT: "its file is damaged; restore a backup",
    sqlite3.SQLITE_NOTADB: "its file is not a database; restore a backup",
}


class RegistryOpenError(Exception):
    """The registry cannot be used, and starting without it would lose or hide devices.

    Attributes:
        message: For the operator: what is wrong with which file and what to do.
    """

    def __init__(self, message: str) -> None:
        """Store the message for the operator."""
        super().__init__(message)
        self.message = message


def reason(error: BaseException | None, otherwise: str) -> str:
    """Say what a database's error means and what to do, without the database's own text.

    Args:
        error: The driver's.
        otherwise: What to say of an error that is none of SQLite's known ones.

    Source: https://www.sqlite.org/rescode.html; the low byte is the primary code.
    """
    return _REASONS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, otherwise)
