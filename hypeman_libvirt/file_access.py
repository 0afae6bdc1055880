"""Whom a file belongs to, for users who may not open it."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

_SHARED: Final = frozenset({"root", "wheel", "nogroup"})
"""Groups that no user should join in order to read a file."""


def explain_denial(file: Path) -> str:
    """Say in a sentence whose a file is, and what a user does who may not open it.

    Where a directory above it is closed, that one is named: it is what has to change.
    """
    closed = next((each for each in reversed(file.parents) if not _is_open(each)), file)
    try:
        status = closed.stat()
    except OSError:
        return f"this user may not open {file}; run the command with sudo"
    owner, group = _user(status.st_uid), _group(status.st_gid)
    mode = stat.S_IMODE(status.st_mode)
    whose = "which" if closed == file else f"because {closed}"
    belongs = f"{whose} belongs to {owner}:{group} (mode {mode:04o})"
    return f"this user may not open {file}, {belongs}; {_advice(owner, group, mode)}"


def is_there(file: Path) -> bool:
    """Whether a file exists; one in a directory that may not be searched does."""
    try:
        file.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _is_open(directory: Path) -> bool:
    return not directory.exists() or os.access(directory, os.X_OK, effective_ids=True)


def _advice(owner: str, group: str, mode: int) -> str:
    ways = ["run the command with sudo"]
    if owner != "root":
        ways.append(f"as {owner}")
    if mode & stat.S_IRGRP and group not in _SHARED:
        ways.append(f"join the group {group}")
    return ", or ".join(ways)


def _user(number: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return str(number)


def _group(number: int) -> str:
    with suppress(KeyError):
        return grp.getgrgid(number).gr_name
    return str(number)
