"""Domains in the local libvirtd: real ones, that are defined and never started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from hypeman_bench import host_files

URI: Final = "qemu:///system"


class MissingError(Exception):
    """Something is not here that a scenario needs; its text says what."""


@contextmanager
def defining(domains: int, holding: int) -> Iterator[None]:
    """Define domains, and undefine them again.

    Raises:
        MissingError: No libvirtd answers.
    """
    import libvirt  # noqa: PLC0415 - the run goes on without it

    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        connection = libvirt.open(URI)
    except libvirt.libvirtError as error:
        raise MissingError(f"no libvirtd answers at {URI}") from error
    defined = []
    try:
        for xml in host_files.domain_xml(domains, holding, kind="qemu"):
            defined.append(connection.defineXML(xml))  # noqa: PERF401 - one may fail
        yield
    finally:
        for domain in defined:
            with suppress(libvirt.libvirtError):
                domain.undefine()
        connection.close()
