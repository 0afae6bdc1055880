"""Domains in the local libvirtd: real ones, that are defined and never started."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import libvirt

from hypeman_bench import host_files

URI: Final = "qemu:///system"
_OURS: Final = re.compile(r"bench-\d+")


class MissingError(Exception):
    """Something is not here that a scenario needs; its text says what."""


@contextmanager
def defining(domains: int, holding: int) -> Iterator[None]:
    """Define domains, and undefine them again.

    Raises:
        MissingError: No libvirtd answers.
    """
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        connection = libvirt.open(URI)
    except libvirt.libvirtError as error:
        raise MissingError(f"no libvirtd answers at {URI}") from error
    try:
        _undefine_all(connection)  # those of a run that was killed, too
        for xml in host_files.domain_xml(domains, holding, kind="qemu"):
            connection.defineXML(xml)
        yield
    finally:
        _undefine_all(connection)
        connection.close()


def _undefine_all(connection: libvirt.virConnect) -> None:
    for domain in connection.listAllDomains():
        if _OURS.fullmatch(domain.name()):
            with suppress(libvirt.libvirtError):
                domain.undefine()
