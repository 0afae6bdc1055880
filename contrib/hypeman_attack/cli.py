"""The command ``contrib/attack``."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

from hypeman_attack.attacks import ATTACKS, Attack
from hypeman_attack.target import Witness, target

_SERVERS = ("granian", "waitress")
_HEAD = "| attack | server | tries | /health p99 / max | memory before, after | SIGTERM |"


def run() -> int:
    """Attack what the arguments say, and print the table."""
    parser = argparse.ArgumentParser(prog="contrib/attack", description="Hostile clients.")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each attack")
    parser.add_argument("--server", choices=_SERVERS, help="default: both, by turns")
    parser.add_argument("--only", default="", metavar="PATTERN", help="attacks that match")
    options = parser.parse_args()
    print(_HEAD, "|---|---|---|---|---|---|", sep="\n")
    for name, attack in ATTACKS.items():
        if re.search(options.only, name):
            for server in [options.server] if options.server else _SERVERS:
                print(f"| {name} | {server} | {_measure(attack, server, options.seconds)} |")
                sys.stdout.flush()
    return 0


def _measure(attack: Attack, server: str, seconds: float) -> str:
    with tempfile.TemporaryDirectory() as directory, target(Path(directory), server) as service:
        before = service.memory()
        witness = Witness(service.server.port)
        try:
            tries = str(attack(service, seconds))
        except RuntimeError as trouble:
            tries = str(trouble)
        health = witness.stop()
        after = service.memory()
        began = time.monotonic()
        os.kill(service.server.pid, signal.SIGTERM)
        os.waitid(os.P_PID, service.server.pid, os.WEXITED | os.WNOWAIT)
        ended = time.monotonic() - began
    return f"{tries} | {health} | {before:.0f}, {after:.0f} MiB | {ended:.1f} s"
