"""Which URIs stop the start: decided on libvirt's codes, and for QEMU on its three paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.fake_errors import FROM_RPC, INTERNAL, INVALID_ARG, SYSTEM, failure

if TYPE_CHECKING:
    import libvirt

FROM_NONE = 0
FROM_QEMU = 10
NO_CONNECT = 5
AUTH = 45
DOWN = (SYSTEM, FROM_RPC, "Failed to connect socket to '/run/libvirt/libvirt-sock'")


def refusing(code: int, domain: int, message: str) -> Callable[[str], libvirt.virConnect]:
    import libvirt  # noqa: PLC0415 - after the level was chosen

    def dial(_: str) -> libvirt.virConnect:
        error = libvirt.libvirtError(message)
        error.err = failure(code, domain, message).err
        raise error

    return dial


def complaint(uri: str, code: int, domain: int, message: str) -> str:
    from hypeman_libvirt.host.uri import WrongUriError, check_uri  # noqa: PLC0415

    with pytest.raises(WrongUriError) as refused:
        check_uri(uri, refusing(code, domain, message))
    return refused.value.message


@pytest.mark.parametrize(
    ("uri", "code", "domain", "message"),
    [
        (
            "qemu:///sytem",
            INTERNAL,
            FROM_NONE,
            "internal error: unexpected qemu URI path '/sytem', try qemu:///system",
        ),
        (
            "qemu:///sytem",
            INTERNAL,
            FROM_QEMU,
            "internal error: unexpected QEMU URI path '/sytem', try qemu:///system",
        ),
        (
            "qemu://system",
            INTERNAL,
            FROM_NONE,
            "internal error: invalid URI qemu://system (maybe you want qemu:///system)",
        ),
        ("foo:///bar", NO_CONNECT, FROM_NONE, "no connection driver available for foo:///bar"),
        ("qemu+foo:///system", INVALID_ARG, 13, "remote_open: transport in URL not recognised"),
    ],
)
def test_what_can_never_work_is_refused_with_libvirts_proposal(
    uri: str, code: int, domain: int, message: str
) -> None:
    told = complaint(uri, code, domain, message)
    assert told == f"no libvirt will ever answer at {uri}: libvirt says: {message}"


@pytest.mark.parametrize(
    ("uri", "proposal"),
    [
        ("qemu:///sytem", "qemu:///system"),
        ("qemu:///sesion", "qemu:///session"),
        ("qemu:///", "qemu:///system"),
        ("qemu://session", "qemu:///session"),
        ("qemu+ssh://root@gpu-1", "qemu+ssh://root@gpu-1/system"),
        ("qemu+tls://gpu-1/Session", "qemu+tls://gpu-1/session"),
        ("foo:///bar", "qemu:///system"),
        ("qmeu:///system", "qemu:///system"),
        ("qmu+ssh://root@gpu-1/system", "qemu+ssh://root@gpu-1/system"),
    ],
)
def test_a_wrong_driver_or_path_is_refused_while_the_daemon_is_down_too(
    uri: str, proposal: str
) -> None:
    assert complaint(uri, *DOWN) == f"no libvirt will ever answer at {uri}: try {proposal}"


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("qemu:///system", DOWN),
        ("qemu:///session", DOWN),
        ("xen:///system", DOWN),
        ("qemu+ssh://gpu-1/system", (SYSTEM, FROM_RPC, "Cannot recv data")),
        ("qemu:///system", (INTERNAL, FROM_QEMU, "qemu state driver is not active")),
        ("qemu:///system", (AUTH, FROM_RPC, "authentication failed")),
        ("esx://h/", (INTERNAL, 28, "IP address lookup for host 'h' failed")),
    ],
)
def test_what_may_work_later_is_no_reason_to_stop(uri: str, error: tuple[int, int, str]) -> None:
    from hypeman_libvirt.host.uri import check_uri  # noqa: PLC0415

    check_uri(uri, refusing(*error))


@pytest.mark.testdriver
@pytest.mark.parametrize(
    ("uri", "proposal"),
    [
        ("qemu:///sytem", "qemu:///system"),
        ("qemu://system", "qemu:///system"),
        ("qemu", "does not include a driver name"),
        ("qemu+foo:///system", "transport in URL not recognised"),
        ("test:///nonesuch/host.xml", "/nonesuch/host.xml"),
        ("test://", "test:///default"),
    ],
)
def test_libvirt_itself_says_so(uri: str, proposal: str) -> None:
    from hypeman_libvirt.host.uri import WrongUriError, check_uri  # noqa: PLC0415

    with pytest.raises(WrongUriError) as refused:
        check_uri(uri)
    assert proposal in refused.value.message


@pytest.mark.testdriver
def test_libvirt_itself_answers_or_is_down() -> None:
    from hypeman_libvirt.host.uri import check_uri  # noqa: PLC0415

    check_uri("test:///default")
    check_uri("qemu+unix:///system?socket=/nonesuch/libvirt-sock")
