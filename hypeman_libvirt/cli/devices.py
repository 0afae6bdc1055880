"""``hypeman-libvirt devices``: the API for people, in the words of hypeman's CLI: what it reads.

Exit status: 0 done; 1 the service refused, and its message is on stderr; 2 the command line is
wrong; 3 no service answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import click

from hypeman_libvirt.cli import parameters
from hypeman_libvirt.cli.completion import complete_any, complete_domain, complete_group
from hypeman_libvirt.cli.groups import Group
from hypeman_libvirt.cli.output import print_facts, print_json, print_table
from hypeman_libvirt.cli.parameters import read_tags
from hypeman_libvirt.cli.service import Service, pass_service, service_options
from hypeman_libvirt.cli.wording import in_flags
from hypeman_libvirt.printable import printable

if TYPE_CHECKING:
    from hypeman_libvirt.cli.api_client import ApiClient

_LISTED: Final = (
    "id",
    "name",
    "type",
    "pci_address",
    "bound_to_vfio",
    "attached_to",
    "domain",
    "state",
    "health",
)
_AVAILABLE: Final = (
    "pci_address",
    "vendor",
    "device",
    "iommu_group",
    "current_driver",
    "domain",
    "health",
)
_MEMBERS: Final = (
    "iommu_group",
    "viable",
    "pci_address",
    "device",
    "current_driver",
    "registered_as",
    "domain",
    "reason",
)
_EVENT: Final = ("at", "type", "pci_address", "name", "current_driver", "attached_to")
_VIABLE: Final = {"viable": "yes", "needs_bind": "after bind", "never": "never"}
_ADDRESS: Final = re.compile(
    r"(?:pci_)?[0-9a-f]{4,8}[:_][0-9a-f]{2}[:_][0-9a-f]{2}[._][0-9a-f]", re.IGNORECASE
)
_NO_IOMMU: Final = (
    "this host has no IOMMU group, so nothing can be passed through: the IOMMU is off or missing; "
    "hypeman-libvirt doctor, on the host, says which and what to do"
)


@click.group("devices", cls=Group)
@service_options
@click.pass_context
def commands(context: click.Context, base_url: str, api_key: str | None) -> None:
    """Register, bind and attach devices over the service's HTTP API.

    hypeman's spellings work, too: device for devices, ls, rm and show for list, delete and get.

    Exit status: 0 done; 1 the service refused; 2 wrong usage; 3 no service answers.
    """
    context.obj = Service(base_url, api_key)


@commands.command()
@parameters.as_json
@pass_service
def available(service: Service, as_json: bool) -> None:
    """List what can be passed through, registered or not."""
    with service.asking() as api:
        listed = api.get("/devices/available")
        why = None if listed or as_json else _why_nothing(api)
    _print(listed, as_json, _AVAILABLE, map(_named, listed), why)


@commands.command("list")
@parameters.tag
@parameters.as_json
@pass_service
def list_devices(service: Service, tag: tuple[str, ...], as_json: bool) -> None:
    """List registered devices."""
    query = {f"tags[{key}]": value for key, value in read_tags(tag).items()}
    with service.asking() as api:
        listed = api.get("/devices", **query)
    reason = "no device has these tags" if tag else "no device is registered"
    empty = f"{reason}; hypeman-libvirt devices available lists what can be"
    _print(listed, as_json, _LISTED, map(_held, listed), empty)


@commands.command()
@parameters.device
@parameters.as_json
@pass_service
def get(service: Service, device: str, as_json: bool) -> None:
    """Show a registered device: by id, name, PCI address or node device name."""
    from hypeman_libvirt.cli.api_client import device_path

    with service.asking() as api:
        registered = api.get(device_path(device))
    print_json(registered) if as_json else print_facts(registered)


@commands.command()
@click.argument("device", shell_complete=complete_any)
@click.option("--instance", shell_complete=complete_domain, help="Also ask about this domain.")
@click.option(
    "--for",
    "purpose",
    type=click.Choice(["attach", "bind"]),
    default="attach",
    show_default=True,
    help="What would be done with the device.",
)
@parameters.in_scope
@parameters.as_json
@pass_service
def preflight(
    service: Service, device: str, instance: str | None, purpose: str, scope: str, as_json: bool
) -> None:
    """Say whether passthrough would work, and what stands in the way.

    DEVICE is registered, or a PCI address that is not registered yet.
    """
    with service.asking() as api:
        answer = _preflight(api, device, {"for": purpose, "instance": instance, "scope": scope})
    rows = [
        {
            **each,
            "message": in_flags(each["message"]),
            "next_step": each["hint"] and in_flags(each["hint"]),
        }
        for each in answer["checks"]
    ]
    _print(answer, as_json, ("id", "severity", "message", "next_step"), rows)
    raise click.exceptions.Exit(0 if answer["ready"] else 1)


def _preflight(api: ApiClient, device: str, query: dict[str, str | None]) -> Any:  # noqa: ANN401
    from hypeman_libvirt.cli.api_client import RefusedError, device_path

    try:
        return api.get(device_path(device, "preflight"), **query)
    except RefusedError as error:
        if error.code != "not_found" or not _ADDRESS.fullmatch(device):
            raise
    # A node device name becomes its address, the only form that this path takes.
    parts = device.removeprefix("pci_").replace("_", ":").replace(".", ":").split(":")
    address = f"{':'.join(parts[:3])}.{parts[3]}"
    return api.get("/devices/preflight", pci_address=address, **query)


@commands.command()
@parameters.device
@parameters.in_scope
@parameters.as_json
@pass_service
def hostdev(service: Service, device: str, scope: str, as_json: bool) -> None:
    """Print the <hostdev> element that virsh attach-device takes."""
    from hypeman_libvirt.cli.api_client import device_path

    with service.asking() as api:
        xml = api.get_text(device_path(device, "hostdev.xml"), scope=scope)
    if as_json:
        print_json({"hostdev_xml": xml})
    else:
        click.echo("\n".join(printable(line) for line in xml.splitlines()))


@commands.command()
@click.argument("number", type=click.IntRange(0), required=False, shell_complete=complete_group)
@parameters.as_json
@pass_service
def groups(service: Service, number: int | None, as_json: bool) -> None:
    """List IOMMU groups with their members.

    VIABLE says whether a guest could have the group: yes, now; after bind, once its devices are
    on vfio-pci; never, for the reason that stands there.
    """
    with service.asking() as api:
        answer = api.get("/iommu-groups" if number is None else f"/iommu-groups/{number}")
    reports = answer if number is None else [answer]
    rows = [
        {**_named(member), "viable": _viable(report), "reason": report["reason"]}
        for report in reports
        for member in report["members"]
    ]
    _print(answer, as_json, _MEMBERS, rows, _NO_IOMMU)


@commands.command()
@click.option("--since", help="Id of the last event that was seen.")
@parameters.as_json
@pass_service
def events(service: Service, since: str | None, as_json: bool) -> None:
    """Follow what happens to devices, whoever causes it, until Ctrl-C."""
    with service.asking() as api:
        for event in api.events(since):
            if as_json:
                print_json({"event_id": event.id, **event.data})
            else:
                values = (str(event.data.get(each) or "-") for each in _EVENT)
                click.echo("  ".join(map(printable, values)))


def _print(
    answer: object,
    as_json: bool,
    columns: tuple[str, ...],
    rows: Iterable[dict[str, Any]],
    empty: str | None = None,
) -> None:
    """Print JSON or a table, with hosts where a hub answers; of an empty list, why, on stderr."""
    if as_json:
        print_json(answer)
    elif answer or empty is None:
        listed = list(rows)
        of_a_fleet = ("host",) if any("host" in each for each in listed) else ()
        print_table((*columns, *of_a_fleet), listed)
    else:
        click.echo(empty, err=True)


def _why_nothing(api: ApiClient) -> str:
    if api.get("/iommu-groups"):
        return "no device of this host can be passed through: its IOMMU groups have bridges only"
    return _NO_IOMMU


def _named(function: dict[str, Any]) -> dict[str, Any]:
    """Add what vendor and device are called, or their ids."""
    vendor = function.get("vendor_name") or function["vendor_id"]
    device = function.get("device_name") or function["device_id"]
    if "mdev_uuid" in function:
        device = f"{function['mdev_type']} {function['mdev_uuid']}"
    return {**_held(function), "vendor": vendor, "device": device}


def _held(function: dict[str, Any]) -> dict[str, Any]:
    """Add the name of the domain that holds it, and its health in a word."""
    health = (function.get("health") or {}).get("status")
    return {**function, "domain": function.get("attached_domain"), "health": health}


def _viable(report: dict[str, Any]) -> str:
    return _VIABLE.get(report.get("status", ""), "yes" if report["viable"] else "no")
