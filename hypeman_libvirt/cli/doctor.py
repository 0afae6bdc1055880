"""The command ``hypeman-libvirt doctor``."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from hypeman_libvirt.cli.output import console, print_json, print_table
from hypeman_libvirt.cli.registry import told
from hypeman_libvirt.devices.errors import DeviceError
from hypeman_libvirt.doctor.checks import diagnose
from hypeman_libvirt.doctor.examination import examine
from hypeman_libvirt.doctor.facts import Finding
from hypeman_libvirt.doctor.machine import read_machine
from hypeman_libvirt.host.libvirt_host import open_host
from hypeman_libvirt.host.test_driver import demo_uri
from hypeman_libvirt.host.usage.local_host import is_local
from hypeman_libvirt.settings import SettingsError, load_settings

_STATUS: Final = {"ok": 0, "warning": 1, "error": 2}


def doctor(
    uri: Annotated[
        str | None, typer.Option(help="libvirt URI of the host.", show_default=False)
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with settings.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    root: Annotated[Path, typer.Option(hidden=True)] = Path("/"),
) -> None:
    """Say what is wrong with this host, and the command that mends it. Changes nothing.

    Run it as the user of the service, with its settings. The exit status is 0 when all is well, 1
    with warnings, 2 with errors.
    """
    with told(SettingsError, DeviceError):
        settings = load_settings(config, {"uri": uri})
        where = settings.uri or demo_uri()
        with closing(open_host(where)) as host:
            machine = read_machine(root) if is_local(where) else None
            findings = diagnose(examine(settings, host, machine, datetime.now(UTC)))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    elif console().is_terminal:
        print_table(("status", "check", "finding", "cure"), map(_row, findings))
    else:
        typer.echo("\n".join(map(_line, findings)))
    raise typer.Exit(max(_STATUS[each.severity] for each in findings))


def _row(finding: Finding) -> dict[str, str | None]:
    return {
        "status": finding.severity.upper(),
        "check": finding.id,
        "finding": finding.message,
        "cure": finding.cure,
    }


def _line(finding: Finding) -> str:
    cure = f"\n         cure: {finding.cure}" if finding.cure else ""
    return f"{finding.severity.upper():8} {finding.id}: {finding.message}{cure}"
