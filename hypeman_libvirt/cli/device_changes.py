"""``hypeman-libvirt devices``: what it changes."""

from __future__ import annotations

import re
from typing import Any, Final

import click

from hypeman_libvirt.cli import parameters
from hypeman_libvirt.cli.completion import complete_address, complete_domain
from hypeman_libvirt.cli.devices import commands
from hypeman_libvirt.cli.output import print_answer
from hypeman_libvirt.cli.parameters import SCOPES, read_tags
from hypeman_libvirt.cli.service import Service, pass_service

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@commands.command()
@click.argument("pci_address", required=False, shell_complete=complete_address)
@click.option(
    "--pci-address",
    "hypemans",
    shell_complete=complete_address,
    help="The same, as hypeman's own CLI takes it.",
)
@click.option("--name", help="Default: made of the address.")
@parameters.tag
@click.option("--bind", type=SCOPES, help="Bind it to vfio-pci as well.")
@click.option("--require-clean", is_flag=True, help="Quarantine it after each use, until clear.")
@click.option("--persist", is_flag=True, help="Bind it at each boot, too; needs --bind.")
@parameters.as_json
@pass_service
def register(
    service: Service,
    pci_address: str | None,
    hypemans: str | None,
    name: str | None,
    tag: tuple[str, ...],
    bind: str | None,
    require_clean: bool,
    persist: bool,
    as_json: bool,
) -> None:
    """Register the device at a PCI address, such as 0000:a2:00.0, under a name.

    A vGPU that was made elsewhere is registered by the UUID of its mediated device.
    """
    if (pci_address is None) is (hypemans is None):
        raise click.UsageError("give one PCI address, such as 0000:a2:00.0")
    device_id = pci_address or hypemans or ""
    kind = "mdev_uuid" if _UUID.fullmatch(device_id) else "pci_address"
    tags = read_tags(tag) or None
    with service.asking() as api:
        device = api.post(
            "/devices",
            **{kind: device_id},
            name=name,
            tags=tags,
            bind=bind,
            require_clean=require_clean or None,
            persist=persist or None,
        )
    print_answer(device, as_json, f"registered {device['name']} (ID: {device['id']})")


@commands.command()
@parameters.device
@click.option(
    "--pci-address",
    required=True,
    metavar="ADDRESS",
    shell_complete=complete_address,
    help="Where its card is now.",
)
@parameters.as_json
@pass_service
def move(service: Service, device: str, pci_address: str, as_json: bool) -> None:
    """Say where the card of a registered device is now.

    Domains that have it in their definition are rewritten, for their next start.
    """
    changed = _change(service, device, "move", pci_address=pci_address)
    print_answer(changed, as_json, f"{changed['name']} is at {changed['pci_address']}")


@commands.command()
@parameters.device
@parameters.as_json
@pass_service
def clear(service: Service, device: str, as_json: bool) -> None:
    """End the quarantine of a device, if it is well."""
    changed = _change(service, device, "clear")
    print_answer(changed, as_json, f"{changed['name']} is offered again")


@commands.command()
@parameters.device
@parameters.in_scope
@parameters.force
@click.option("--persist", is_flag=True, help="At each boot, too, until it is given back.")
@parameters.as_json
@pass_service
def bind(
    service: Service, device: str, scope: str, force: bool, persist: bool, as_json: bool
) -> None:
    """Take the device from its host driver and give it to vfio-pci."""
    changed = _change(
        service, device, "bind", scope=scope, force=force or None, persist=persist or None
    )
    print_answer(changed, as_json, f"{changed['name']} is on vfio-pci")


@commands.command()
@parameters.device
@parameters.in_scope
@parameters.as_json
@pass_service
def unbind(service: Service, device: str, scope: str, as_json: bool) -> None:
    """Give the device back to its host driver."""
    changed = _change(service, device, "unbind", scope=scope)
    print_answer(changed, as_json, f"{changed['name']} is off vfio-pci")


@commands.command()
@parameters.device
@click.argument("domain", shell_complete=complete_domain)
@parameters.in_scope
@parameters.force
@click.option("--mac", help="Of a network card's virtual function: its MAC address in the guest.")
@click.option("--vlan", type=click.IntRange(1, 4094), help="Likewise, the tag of its VLAN.")
@parameters.as_json
@pass_service
def attach(
    service: Service,
    device: str,
    domain: str,
    scope: str,
    force: bool,
    mac: str | None,
    vlan: int | None,
    as_json: bool,
) -> None:
    """Give the device to a domain: by UUID, name or instance id."""
    body = {
        "instance": domain,
        "scope": scope,
        "force": force or None,
        "mac": mac,
        "vlan": vlan,
    }
    changed = _change(service, device, "attach", **body)
    print_answer(changed, as_json, f"{changed['name']} is attached to {_holder(changed)}")


@commands.command()
@parameters.device
@parameters.as_json
@pass_service
def detach(service: Service, device: str, as_json: bool) -> None:
    """Take the device out of the domain that holds it."""
    changed = _change(service, device, "detach")
    print_answer(changed, as_json, f"{changed['name']} is free")


@commands.command()
@parameters.device
@click.option("--unbind", type=SCOPES, help="Give it back to the host as well.")
@parameters.as_json
@pass_service
def delete(service: Service, device: str, unbind: str | None, as_json: bool) -> None:
    """Unregister a device."""
    from hypeman_libvirt.cli.api_client import device_path

    with service.asking() as api:
        api.delete(device_path(device), unbind=unbind)
    print_answer({"deleted": device}, as_json, f"deleted {device}")


@commands.command()
@parameters.device
@click.argument("name")
@parameters.as_json
@pass_service
def rename(service: Service, device: str, name: str, as_json: bool) -> None:
    """Give a registered device another name."""
    from hypeman_libvirt.cli.api_client import device_path

    with service.asking() as api:
        changed = api.patch(device_path(device), name=name)
    print_answer(changed, as_json, f"{device} is {changed['name']} now")


@commands.command()
@parameters.device
@click.argument("tags", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--remove", multiple=True, metavar="KEY", help="May be repeated.")
@parameters.as_json
@pass_service
def tag(
    service: Service, device: str, tags: tuple[str, ...], remove: tuple[str, ...], as_json: bool
) -> None:
    """Set tags of a registered device, or remove them; others stay as they are."""
    from hypeman_libvirt.cli.api_client import device_path

    if not tags and not remove:
        raise click.UsageError("give KEY=VALUE or --remove KEY")
    wanted = read_tags(tags, "KEY=VALUE")
    with service.asking() as api:
        known: dict[str, str] = api.get(device_path(device)).get("tags", {})
        remaining = {key: value for key, value in known.items() if key not in remove}
        changed = api.patch(device_path(device), tags=remaining | wanted)
    listed = ", ".join(f"{key}={value}" for key, value in changed.get("tags", {}).items())
    print_answer(changed, as_json, f"{changed['name']} has {listed or 'no tags'}")


def _change(service: Service, device: str, what: str, **body: object) -> dict[str, Any]:
    from hypeman_libvirt.cli.api_client import device_path

    with service.asking() as api:
        changed: dict[str, Any] = api.post(device_path(device, what), **body)
    return changed


def _holder(device: dict[str, Any]) -> str:
    """Name the domain beside what the API calls it."""
    instance, domain = str(device["attached_to"]), device.get("attached_domain")
    return f"{domain} ({instance})" if domain and domain != instance else instance
