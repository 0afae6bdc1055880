"""The doctor, asked inside the lab about the machine that it is on."""

from __future__ import annotations

import json
from typing import Final

from hypeman_lab import Lab

from tests.lab.service import SECRET

_SLOW: Final = 300.0
"""Seconds that an emulated processor may take to import everything."""


def examine(lab: Lab, user: str = "root") -> dict[str, tuple[str, str]]:
    """Return severity and cure of each finding; the package is in /opt/service."""
    done = lab.exec(
        f"cd / && runuser -u {user} -- env JWT_SECRET='{SECRET}' PYTHONPATH=/opt/service "
        "HYPEMAN_LIBVIRT_REGISTRY=/tmp/doctor.db "
        "python3 -m hypeman_libvirt.cli.main doctor --uri qemu:///system --json",
        timeout=_SLOW,
    )
    assert done.stdout.lstrip().startswith("["), done.stdout + done.stderr
    return {each["id"]: (each["severity"], each["cure"] or "") for each in json.loads(done.stdout)}
