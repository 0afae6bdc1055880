"""The API's advice in the words of this command line: flags and commands, not fields and paths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_COMMANDS: Final[Sequence[tuple[str, str]]] = (
    (r"GET /devices lists", "hypeman-libvirt devices list shows"),
    (r"GET /devices/available", "hypeman-libvirt devices available"),
    (r"(?:GET|PUT) /devices/(\S+)/virtual-functions", r"hypeman-libvirt devices vfs \1"),
    (r"GET /devices/(\S+)/preflight", r"hypeman-libvirt devices preflight \1"),
    (r"GET /devices/events", "hypeman-libvirt devices events"),
    (r"GET /devices/vgpu-profiles", "hypeman-libvirt devices profiles"),
    (r"GET /devices/(?!\S)", "hypeman-libvirt devices list"),
    (r"GET /devices(?![/\w])", "hypeman-libvirt devices list"),
    (r"GET /devices/(\S+)", r"hypeman-libvirt devices get \1"),
    (r"GET /iommu-groups/(\d+)", r"hypeman-libvirt devices groups \1"),
    (r"GET /iommu-groups", "hypeman-libvirt devices groups"),
    (r"GET /(spec\.\w+) lists the operations", "hypeman-libvirt devices --help lists the commands"),
    (r"POST /devices/\{id\}/move", "hypeman-libvirt devices move NAME --pci-address ADDRESS"),
    (r"POST /devices/\{id\}/clear", "hypeman-libvirt devices clear NAME"),
    (r"POST /devices/(\S+)/(bind|unbind|attach|detach|clear)", r"hypeman-libvirt devices \2 \1"),
    (r"POST /devices(?![/\w])", "hypeman-libvirt devices register"),
    (r"PATCH /devices/(\S+)", r"hypeman-libvirt devices rename or tag \1"),
    (r"DELETE /devices/(\S+)", r"hypeman-libvirt devices delete \1"),
    (r"send Authorization: Bearer <token>", "set HYPEMAN_API_KEY or --api-key"),
    (r"\b(?:pass |set )?force ?[=:] ?true", "--force"),
    (r'"?\b(scope|bind|unbind)"? ?[=:] ?"?(device|group)\b"?', r"--\1 \2"),
    (r"\?pci_address=(\S*)", r"--pci-address \1"),
    (r"\btags\[(\S+?)\]=(\S+)", r"--tag \1=\2"),
)
_PATTERNS: Final = tuple((re.compile(pattern), words) for pattern, words in _COMMANDS)


def in_flags(message: str) -> str:
    """Turn fields and paths of the API into flags and commands."""
    for pattern, words in _PATTERNS:
        message = pattern.sub(words, message)
    return message
