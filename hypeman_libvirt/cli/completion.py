"""What TAB proposes: names that the service knows; nothing where it does not answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from hypeman_libvirt.cli.service import API_KEY_VARIABLE, BASE_URL_VARIABLE
from hypeman_libvirt.defaults import BASE_URL
from hypeman_libvirt.printable import printable

if TYPE_CHECKING:
    from hypeman_libvirt.cli.api_client import ApiClient

PROGRAM: Final = "hypeman-libvirt"
SHELLS: Final = ("bash", "zsh", "fish")
_VARIABLE: Final = "_HYPEMAN_LIBVIRT_COMPLETE"
"""The environment variable that click reads."""
_PATIENCE: Final = 1.5
"""Seconds that TAB waits for the service."""

Names = Callable[["ApiClient"], Iterable[tuple[str, str]]]
"""Asks for names and what explains each."""


_BASH: Final = """\
%(complete_func)s() {
    local line="${COMP_LINE:0:COMP_POINT}" colons="" kind value
    local word="${line##* }"
    # Bash takes a colon for the end of a word: what is before the last one stays on the line.
    [[ $word == *:* && $COMP_WORDBREAKS == *:* ]] && colons="${word%%"${word##*:}"}"
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$colons"}") ;;
        esac
    done < <(env COMP_LINE="$line" %(complete_var)s=bash_complete "$1")
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


@add_completion_class
class _Bash(BashComplete):
    """Bash, with words that have colons in them: PCI addresses and URLs."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """Split the line by its spaces alone; bash's own words end at colons."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        incomplete = words.pop() if words and not line.endswith(" ") else ""
        return words, incomplete

    def source(self) -> str:
        """Return the script, without a bash to ask for its version."""
        return ShellComplete.source(self)


def script(program: click.Command, shell: str) -> str:
    """Return what a shell reads to complete the commands of a program."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.BadParameter(f"{shell!r} is none of {', '.join(SHELLS)}")
    return kind(program, {}, PROGRAM, _VARIABLE).source()


def complete_device(
    ctx: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Propose names of registered devices."""
    return _propose(ctx, incomplete, _devices)


def complete_address(
    ctx: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Propose addresses of what can be passed through and is not registered."""
    return _propose(ctx, incomplete, _addresses)


def complete_any(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Propose names of registered devices, and addresses of what is not registered."""
    return _propose(ctx, incomplete, lambda api: [*_devices(api), *_addresses(api)])


def complete_domain(
    ctx: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Propose names of domains."""
    return _propose(ctx, incomplete, _domains)


def complete_profile(
    ctx: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Propose vGPU profiles."""
    return _propose(ctx, incomplete, _profiles)


def complete_group(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Propose numbers of IOMMU groups."""
    return _propose(ctx, incomplete, _groups)


def _propose(ctx: click.Context, incomplete: str, names: Names) -> list[CompletionItem]:
    from hypeman_libvirt.cli.api_client import ApiClient

    base_url, api_key = _where(ctx)
    try:
        proposals = list(names(ApiClient(base_url, api_key, timeout=_PATIENCE)))
    except Exception:  # noqa: BLE001 - a shell's line is no place for any complaint
        return []
    usable = [(name, text) for name, text in proposals if name.isprintable()]
    return [
        CompletionItem(name, help=printable(text))
        for name, text in usable
        if name.startswith(incomplete)
    ]


def _where(ctx: click.Context) -> tuple[str, str | None]:
    """Return where the service is: as the group's options say, else the environment."""
    options = ctx.parent.params if ctx.parent else {}
    base_url = options.get("base_url") or os.environ.get(BASE_URL_VARIABLE) or BASE_URL
    return base_url, options.get("api_key") or os.environ.get(API_KEY_VARIABLE)


def _devices(api: ApiClient) -> list[tuple[str, str]]:
    return [(each["name"], each["pci_address"]) for each in api.get("/devices")]


def _addresses(api: ApiClient) -> list[tuple[str, str]]:
    return [
        (each.get("mdev_uuid") or each["pci_address"], _title(each))
        for each in api.get("/devices/available")
        if not each.get("registered_as")
    ]


def _title(function: dict[str, Any]) -> str:
    words: Sequence[Any] = (function.get("vendor_name"), function.get("device_name"))
    return " ".join(str(each) for each in words if each) or str(function["device_id"])


def _domains(api: ApiClient) -> list[tuple[str, str]]:
    instances = api.get("/resources")["instances"]
    return [(each["instance_name"], each["state"]) for each in instances]


def _profiles(api: ApiClient) -> list[tuple[str, str]]:
    listed = api.get("/devices/vgpu-profiles")
    return [(each["name"], f"{each['available']} more fit") for each in listed]


def _groups(api: ApiClient) -> list[tuple[str, str]]:
    return [
        (str(each["iommu_group"]), ", ".join(member["pci_address"] for member in each["members"]))
        for each in api.get("/iommu-groups")
    ]
