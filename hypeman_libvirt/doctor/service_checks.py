"""The doctor's questions about the service itself: its settings, its secret, its unit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hypeman_libvirt.doctor.boot_checks import check_helper
from hypeman_libvirt.doctor.facts import Facts, Finding, Unit

_LONGEST: Final = 200
"""Characters of a log's line that are repeated."""
_NEW_SECRET: Final = "openssl rand -hex 32"  # noqa: S105 - a command


def check_service(facts: Facts) -> Iterator[Finding]:
    """Ask all that needs no libvirt and no registry."""
    if facts.unit is not None:
        yield check_unit(facts.unit)
    yield from check_helper(facts)
    yield check_secret(facts)
    yield check_environment(facts)
    yield check_files(facts)
    yield check_listen(facts)
    if facts.machine is not None and facts.machine.limits_rights is not None:
        yield check_rights(limited=facts.machine.limits_rights)


def check_unit(unit: Unit) -> Finding:
    """The unit runs now and after the next boot."""
    said = f"; the last line of its log: {unit.last_line[:_LONGEST]}" if unit.last_line else ""
    log = f"journalctl -u {unit.name} -e"
    if unit.active == "failed" or unit.detail == "auto-restart":
        again = f", {unit.restarts} restart(s) by systemd" if unit.restarts else ""
        message = f"{unit.name} is failing since {unit.since or 'its start'}{again}{said}"
        return Finding("unit", "error", message, f"{log}; then systemctl restart {unit.name}")
    if unit.enabled.startswith("masked"):
        return Finding("unit", "error", f"{unit.name} is masked", f"systemctl unmask {unit.name}")
    if unit.active not in {"active", "activating", "reloading"}:
        message = f"{unit.name} does not run ({unit.active}){said}"
        return Finding("unit", "warning", message, f"systemctl enable --now {unit.name}")
    if not unit.enabled.startswith("enabled"):
        message = f"{unit.name} runs, and will not after the next boot ({unit.enabled})"
        return Finding("unit", "warning", message, f"systemctl enable {unit.name}")
    return Finding("unit", "ok", f"{unit.name} runs and is enabled")


def check_secret(facts: Facts) -> Finding:
    """Tokens are signed with a secret; without one the service does not start."""
    if not facts.asks_for_tokens:
        return Finding("secret", "ok", "auth is off: whoever can connect may do everything")
    secret = facts.secret
    if secret.problem is None:
        where = f" in {secret.file}" if secret.file else ""
        return Finding("secret", "ok", f"a secret is set{where}")
    if secret.closed:
        cure = "sudo hypeman-libvirt doctor"
    elif secret.file:
        again = f"; then systemctl restart {facts.unit.name}" if facts.unit else ""
        cure = f"(umask 077; {_NEW_SECRET} > {secret.file}){again}, and make new tokens"
    else:
        cure = f"export JWT_SECRET=$({_NEW_SECRET}), or set jwt_secret_file"
    return Finding("secret", "error", secret.problem, cure)


def check_environment(facts: Facts) -> Finding:
    """A variable that is spelled wrong changes nothing, in silence."""
    if facts.unknown_variables:
        message = "; ".join(facts.unknown_variables)
        return Finding("environment", "warning", message, "correct the name, or unset it")
    return Finding("environment", "ok", "every HYPEMAN_LIBVIRT_ variable is a setting")


def check_files(facts: Facts) -> Finding:
    """Whoever reads the secret can make tokens; whoever changes the registry can rename devices."""
    if facts.exposed:
        files = " ".join(facts.exposed)
        message = f"others on this machine can read or change {files}"
        return Finding("files", "warning", message, f"chmod 600 {files}")
    return Finding("files", "ok", "nobody else can read the secret or change the registry")


def check_listen(facts: Facts) -> Finding:
    """What others can reach needs TLS before it."""
    if facts.listens_locally:
        return Finding("listen", "ok", f"{facts.listen} is reached from this machine only")
    if facts.speaks_tls:
        return Finding("listen", "ok", f"{facts.listen} is reached by other machines, over TLS")
    message = f"{facts.listen} is reached by other machines, and tokens travel unencrypted"
    cure = "set tls_cert and tls_key, or listen on 127.0.0.1 with contrib/proxy before it"
    return Finding("listen", "warning", message, cure)


def check_rights(*, limited: bool) -> Finding:
    """Whoever libvirt lets in may do everything there, unless it asks polkit for each right."""
    if limited:
        message = (
            "libvirt asks polkit for each right (access_drivers); domain:write among them reaches "
            "the monitor and the guest agent of every domain that polkit's rules do not leave out"
        )
        return Finding("rights", "ok", message)
    message = (
        "libvirt limits nobody whom it lets in: the service's user may do there what root may; "
        'access_drivers = [ "polkit" ] in /etc/libvirt/virtqemud.conf or libvirtd.conf makes '
        "contrib/polkit's list the limit, for every other user of libvirt as well"
    )
    return Finding("rights", "ok", message)
