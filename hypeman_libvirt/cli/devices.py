"""``hypeman-libvirt devices``: the API for people, in the words of hypeman's CLI.

Exit status: 0 done; 1 the service refused, and its message is on stderr; 2 the command line is
wrong; 3 no service answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final

import typer

from hypeman_libvirt.cli.api_client import ApiClient, RefusedError, UnreachableError, device_path
from hypeman_libvirt.cli.output import print_facts, print_json, print_table
from hypeman_libvirt.devices.model import Scope

_LISTED: Final = ("id", "name", "type", "pci_address", "bound_to_vfio", "attached_to", "state")
_AVAILABLE: Final = ("pci_address", "vendor", "device", "iommu_group", "current_driver")
_MEMBERS: Final = (
    "iommu_group",
    "viable",
    "pci_address",
    "device",
    "current_driver",
    "registered_as",
    "attached_to",
)
_EVENT: Final = ("at", "type", "pci_address", "name", "current_driver", "attached_to")

commands = typer.Typer(
    help="Register, bind and attach devices over the service's HTTP API.\n\n"
    "Exit status: 0 done; 1 the service refused; 2 wrong usage; 3 no service answers.",
    no_args_is_help=True,
)

BaseUrl = Annotated[
    str, typer.Option(envvar="HYPEMAN_BASE_URL", help="Where the service is.", show_default=True)
]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="HYPEMAN_API_KEY", help="Bearer token.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Device = Annotated[
    str,
    typer.Argument(help="Id, name, PCI address or node device name.", show_default=False),
]
InScope = Annotated[
    Scope, typer.Option(help="The device alone, or every endpoint of its IOMMU group.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Even if the host lives on the device. It is logged.")
]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="key=value; may be repeated.")]


@commands.callback()
def _connect(
    context: typer.Context,
    base_url: BaseUrl = "http://127.0.0.1:8080",
    api_key: ApiKey = None,
) -> None:
    """Keep where to ask; the connection is opened by the command."""
    context.obj = (base_url, api_key)


@commands.command()
def available(context: typer.Context, as_json: Json = False) -> None:
    """List what can be passed through, registered or not."""
    with _asking(context) as api:
        listed = api.get("/devices/available")
    _print(listed, as_json, _AVAILABLE, map(_named, listed))


@commands.command("list")
def list_devices(context: typer.Context, tag: Tags = None, as_json: Json = False) -> None:
    """List registered devices."""
    query = {f"tags[{key}]": value for key, value in _tags(tag).items()}
    with _asking(context) as api:
        listed = api.get("/devices", **query)
    _print(listed, as_json, _LISTED, listed)


@commands.command()
def register(
    context: typer.Context,
    pci_address: Annotated[str, typer.Argument(help="Such as 0000:a2:00.0.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Default: made of the address.")] = None,
    tag: Tags = None,
    bind: Annotated[Scope | None, typer.Option(help="Bind it to vfio-pci as well.")] = None,
    as_json: Json = False,
) -> None:
    """Register a device under a name."""
    with _asking(context) as api:
        device = api.post(
            "/devices", pci_address=pci_address, name=name, tags=_tags(tag) or None, bind=bind
        )
    _tell(device, as_json, f"registered {device['name']} (ID: {device['id']})")


@commands.command()
def get(context: typer.Context, device: Device, as_json: Json = False) -> None:
    """Show a registered device."""
    with _asking(context) as api:
        found = api.get(device_path(device))
    print_json(found) if as_json else print_facts(found)


@commands.command()
def preflight(
    context: typer.Context,
    device: Device,
    instance: Annotated[str | None, typer.Option(help="Also ask about this domain.")] = None,
    scope: InScope = "device",
    as_json: Json = False,
) -> None:
    """Say whether passthrough would work, and what stands in the way."""
    with _asking(context) as api:
        answer = api.get(device_path(device, "preflight"), instance=instance, scope=scope)
    rows = [{**each, "next_step": each["hint"]} for each in answer["checks"]]
    _print(answer, as_json, ("id", "severity", "message", "next_step"), rows)
    raise typer.Exit(0 if answer["ready"] else 1)


@commands.command()
def bind(
    context: typer.Context,
    device: Device,
    scope: InScope = "device",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Take the device from its host driver and give it to vfio-pci."""
    body = {"scope": scope, "force": force or None}
    _change(context, device, "bind", body, as_json, "{name} is on vfio-pci")


@commands.command()
def unbind(
    context: typer.Context, device: Device, scope: InScope = "device", as_json: Json = False
) -> None:
    """Give the device back to its host driver."""
    _change(context, device, "unbind", {"scope": scope}, as_json, "{name} is off vfio-pci")


@commands.command()
def attach(
    context: typer.Context,
    device: Device,
    instance: Annotated[str, typer.Argument(help="Domain: UUID, name or instance id.")],
    scope: InScope = "device",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Give the device to a domain."""
    body = {"instance": instance, "scope": scope, "force": force or None}
    _change(context, device, "attach", body, as_json, "{name} is attached to {attached_to}")


@commands.command()
def detach(context: typer.Context, device: Device, as_json: Json = False) -> None:
    """Take the device out of the domain that holds it."""
    _change(context, device, "detach", {}, as_json, "{name} is free")


@commands.command()
def delete(
    context: typer.Context,
    device: Device,
    unbind: Annotated[Scope | None, typer.Option(help="Give it back to the host as well.")] = None,
) -> None:
    """Unregister a device."""
    with _asking(context) as api:
        api.delete(device_path(device), unbind=unbind)
    typer.echo(f"deleted {device}")


@commands.command()
def groups(
    context: typer.Context,
    number: Annotated[int | None, typer.Argument(help="One group only.")] = None,
    as_json: Json = False,
) -> None:
    """List IOMMU groups with their members."""
    with _asking(context) as api:
        answer = api.get("/iommu-groups" if number is None else f"/iommu-groups/{number}")
    reports = answer if number is None else [answer]
    rows = [
        {**_named(member), "viable": report["viable"]}
        for report in reports
        for member in report["members"]
    ]
    _print(answer, as_json, _MEMBERS, rows)


@commands.command()
def events(
    context: typer.Context,
    since: Annotated[str | None, typer.Option(help="Id of the last event that was seen.")] = None,
    as_json: Json = False,
) -> None:
    """Follow what happens to devices, whoever causes it, until Ctrl-C."""
    with _asking(context) as api:
        for event in api.events(since):
            if as_json:
                print_json({"event_id": event.id, **event.data})
            else:
                typer.echo("  ".join(str(event.data[each] or "-") for each in _EVENT))


def _change(
    context: typer.Context, device: str, what: str, body: dict[str, Any], as_json: bool, told: str
) -> None:
    with _asking(context) as api:
        changed = api.post(device_path(device, what), **body)
    _tell(changed, as_json, told.format_map(changed))


def _tell(answer: object, as_json: bool, told: str) -> None:
    print_json(answer) if as_json else typer.echo(told)


def _print(
    answer: object,
    as_json: bool,
    columns: Sequence[str],
    rows: Any,  # noqa: ANN401 - JSON
) -> None:
    print_json(answer) if as_json else print_table(columns, rows)


def _named(function: dict[str, Any]) -> dict[str, Any]:
    """Add what vendor and device are called, or their ids."""
    vendor = function.get("vendor_name") or function["vendor_id"]
    device = function.get("device_name") or function["device_id"]
    return {**function, "vendor": vendor, "device": device}


def _tags(given: list[str] | None) -> dict[str, str]:
    pairs = [each.partition("=") for each in given or ()]
    if wrong := [key for key, equals, _ in pairs if not equals]:
        raise typer.BadParameter(f"{wrong[0]!r} is no key=value", param_hint="--tag")
    return {key: value for key, _, value in pairs}


@contextmanager
def _asking(context: typer.Context) -> Iterator[ApiClient]:
    """Ask the service; end with its message where it refuses."""
    base_url, api_key = context.obj
    try:
        with ApiClient(base_url, api_key) as api:
            yield api
    except RefusedError as error:
        typer.echo(f"hypeman-libvirt: {error}", err=True)
        raise typer.Exit(1) from error
    except UnreachableError as error:
        typer.echo(f"hypeman-libvirt: {error}", err=True)
        raise typer.Exit(3) from error
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
