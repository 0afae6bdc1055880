"""``hypeman-libvirt devices``: vGPUs, which profiles there are and making one."""

from __future__ import annotations

from typing import Any, Final

import click

from hypeman_libvirt.cli import parameters
from hypeman_libvirt.cli.completion import complete_profile
from hypeman_libvirt.cli.devices import commands
from hypeman_libvirt.cli.output import print_answer, print_json, print_table
from hypeman_libvirt.cli.parameters import read_tags
from hypeman_libvirt.cli.service import Service, pass_service

_PROFILES: Final = ("profile", "framebuffer_mb", "pci_address", "gpu", "available")
_NONE: Final = (
    "no GPU of this host offers vGPU profiles: that needs the vGPU driver of its vendor on the "
    "host, and GPUs that are not on vfio-pci"
)


@commands.command()
@parameters.as_json
@pass_service
def profiles(service: Service, as_json: bool) -> None:
    """List vGPU profiles, and how many more vGPUs of each fit on which GPU."""
    with service.asking() as api:
        listed = api.get("/devices/vgpu-profiles")
    if as_json:
        print_json(listed)
    elif listed:
        print_table(_PROFILES, [row for profile in listed for row in _rows(profile)])
    else:
        click.echo(_NONE, err=True)


@commands.command("create-vgpu")
@click.argument("profile", shell_complete=complete_profile)
@click.option("--parent", help="Address of the GPU. Default: the one with most room.")
@click.option("--numa-node", type=click.IntRange(0), help="Prefer GPUs of this NUMA node.")
@click.option("--persist", is_flag=True, help="Make it again each time that the host starts.")
@click.option("--name", help="Default: made of its UUID.")
@parameters.tag
@parameters.as_json
@pass_service
def create_vgpu(
    service: Service,
    profile: str,
    parent: str | None,
    numa_node: int | None,
    persist: bool,
    name: str | None,
    tag: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a vGPU of a PROFILE, such as "GRID T4-1B", and register it.

    devices delete takes it away again.
    """
    with service.asking() as api:
        device = api.post(
            "/devices",
            profile=profile,
            parent=parent,
            numa_node=numa_node,
            persist=persist or None,
            name=name,
            tags=read_tags(tag) or None,
        )
    sentence = f"created {device['name']} on {device['parent']} (ID: {device['id']})"
    print_answer(device, as_json, sentence)


def _rows(profile: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "profile": profile["name"],
            "framebuffer_mb": profile["framebuffer_mb"],
            "pci_address": parent["pci_address"],
            "gpu": parent["name"],
            "available": parent["available"],
        }
        for parent in profile["parents"]
    ]
