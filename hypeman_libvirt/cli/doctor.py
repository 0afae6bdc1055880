"""The command ``hypeman-libvirt doctor``."""

from __future__ import annotations

import logging
import os
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hypeman_libvirt.cli import parameters
from hypeman_libvirt.cli.failures import explained
from hypeman_libvirt.cli.output import console, print_json, print_table
from hypeman_libvirt.cli.world import CommandWorld, pass_world
from hypeman_libvirt.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hypeman_libvirt.doctor.facts import Finding
    from hypeman_libvirt.settings import Settings

_STATUS: Final = {"ok": 0, "warning": 1, "error": 2}


@click.command()
@click.option("--uri", help="libvirt URI of the host.")
@parameters.config
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@pass_world
def doctor(world: CommandWorld, uri: str | None, config: Path | None, as_json: bool) -> None:
    """Say what is wrong with this host, and the command that mends it. Changes nothing.

    Run it as root or as the user of the service, with its settings. The exit status is 0 when all
    is well, 1 with warnings, 2 with errors.
    """
    from dataclasses import asdict

    from hypeman_libvirt.devices.errors import DeviceError
    from hypeman_libvirt.host.uri import WrongUriError
    from hypeman_libvirt.settings import SettingsError, load_settings

    with explained(SettingsError, DeviceError, WrongUriError), _without_log():
        findings = _examine(load_settings(config, {"uri": uri}, world.etc), world)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    elif console().is_terminal:
        print_table(("status", "check", "finding", "cure"), map(_row, findings))
    else:
        click.echo("\n".join(map(_line, findings)))
    raise click.exceptions.Exit(max(_STATUS[each.severity] for each in findings))


@contextmanager
def _without_log() -> Iterator[None]:
    """Keep the log off stderr, where Python prints it without a handler: findings say it all."""
    log, handler = logging.getLogger("hypeman_libvirt"), logging.NullHandler()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def _examine(settings: Settings, world: CommandWorld) -> Sequence[Finding]:
    from datetime import UTC, datetime

    from hypeman_libvirt.defaults import HELPER_UNIT
    from hypeman_libvirt.doctor.checks import diagnose
    from hypeman_libvirt.doctor.examination import examine
    from hypeman_libvirt.doctor.machine import read_machine
    from hypeman_libvirt.doctor.unit import NVIDIA_VGPU_MANAGER, read_unit
    from hypeman_libvirt.helper.boot_rules import BootRuleFiles
    from hypeman_libvirt.host.libvirt_host import open_host
    from hypeman_libvirt.host.test_driver import demo_uri
    from hypeman_libvirt.host.uri import check_uri
    from hypeman_libvirt.host.usage.local_host import is_local

    uri = settings.uri or demo_uri()
    check_uri(uri)
    with closing(open_host(uri)) as host:
        facts = examine(
            settings,
            host,
            read_machine(world.root) if is_local(uri) else None,
            datetime.now(UTC),
            environment=os.environ,
            unit=read_unit(world.run),
            vgpu_manager=read_unit(world.run, NVIDIA_VGPU_MANAGER),
            helper=read_unit(world.run, HELPER_UNIT) if is_local(uri) else None,
            read_rules=BootRuleFiles(world.root).read if is_local(uri) else tuple,
        )
        return diagnose(facts)


def _row(finding: Finding) -> dict[str, str | None]:
    return {
        "status": finding.severity.upper(),
        "check": finding.id,
        "finding": finding.message,
        "cure": finding.cure,
    }


def _line(finding: Finding) -> str:
    cure = f"\n         cure: {printable(finding.cure)}" if finding.cure else ""
    return f"{finding.severity.upper():8} {finding.id}: {printable(finding.message)}{cure}"
