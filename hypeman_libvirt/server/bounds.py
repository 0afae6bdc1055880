"""How much of anything a client may have, whichever server runs."""

from __future__ import annotations

import resource
from typing import Final

from hypeman_libvirt.rest.requests import MAX_BODY

BODY_LIMIT: Final = 2 * MAX_BODY
"""Bytes of a request that are read at all; the API itself allows less."""
HEAD_LIMIT: Final = 32 * 1024
"""Bytes of a request line and headers; a token may be long."""
GRACE: Final = 5.0
"""Seconds, beyond those of the longest operation, for answers to leave at the end."""
ROOM: Final = 200
"""Sockets and files beyond those of connections: the registry's, libvirt's, the log."""
AT_ONCE: Final = 16
"""Connections that are closed beyond those that must be, at most, so that the next find room."""
NEW: Final = 1.0
"""Seconds in which a connection is not closed for others: its request is on its way."""


def with_files_for(connections: int) -> int:
    """Raise the limit of open files if it is too low; return for how many connections it does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 2 * ROOM
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(connections, max(1, soft - 2 * ROOM))
