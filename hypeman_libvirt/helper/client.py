"""The port ``RootHelper`` over the helper's socket, and on hosts that have none."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from pydantic import JsonValue, TypeAdapter, ValidationError

from hypeman_libvirt.devices import errors
from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.errors import (
    DeviceError,
    HelperFailedError,
    NotSupportedError,
    OperationTimeoutError,
)
from hypeman_libvirt.helper.protocol import (
    LONGEST_ANSWER,
    Answer,
    ForgetBootRule,
    ListBootRules,
    ReadConfigSpace,
    Request,
    RuleBody,
    RunReleaseHook,
    SetVgpuType,
    SetVirtualFunctions,
    WriteBootRule,
    write_line,
)

Ask: TypeAlias = Callable[[Request], JsonValue]
"""Has a request done, and returns what the verb returns."""

_HOOK_SECONDS: Final = 330.0
"""More than the helper gives a release hook."""
_START: Final = "systemctl enable --now hypeman-libvirt-helper.socket"
_RULES: Final[TypeAdapter[list[RuleBody]]] = TypeAdapter(list[RuleBody])
_KINDS: Final[Mapping[str, type[DeviceError]]] = {
    kind.code: kind
    for kind in (
        errors.BadRequestError,
        errors.BusyError,
        errors.DeviceNotFoundError,
        errors.IdentityChangedError,
        errors.InUseError,
        errors.NotSupportedError,
        errors.OperationTimeoutError,
    )
}
"""What the helper refuses with; all else is a failure of its own."""


class HelperClient:
    """The port ``RootHelper``: each verb is one request."""

    def __init__(self, ask: Ask) -> None:
        """Have requests done so."""
        self._ask = ask

    def set_virtual_functions(self, device: PciAddress, count: int, *, autoprobe: bool) -> None:
        """Enable exactly so many virtual functions."""
        self._ask(SetVirtualFunctions(device=str(device), count=count, autoprobe=autoprobe))

    def set_vgpu_type(self, device: PciAddress, vgpu_type: int) -> None:
        """Make a vGPU of the type on a virtual function; 0 takes it away."""
        self._ask(SetVgpuType(device=str(device), vgpu_type=vgpu_type))

    def write_boot_rule(self, rule: BootRule) -> None:
        """Have the host do this at boot, in place of an earlier rule of the address."""
        self._ask(WriteBootRule(rule=RuleBody.of(rule)))

    def forget_boot_rule(self, device: PciAddress) -> None:
        """Remove the boot rule of an address, if there is one."""
        self._ask(ForgetBootRule(device=str(device)))

    def list_boot_rules(self) -> Sequence[BootRule]:
        """List the boot rules, by address."""
        listed = self._ask(ListBootRules())
        try:
            return [each.rule() for each in _RULES.validate_python(listed)]
        except ValidationError as error:
            raise _strange() from error

    def read_config_space(self, device: PciAddress) -> bytes:
        """Read the whole config space."""
        text = self._ask(ReadConfigSpace(device=str(device)))
        try:
            return bytes.fromhex(str(text))
        except ValueError as error:
            raise _strange() from error

    def run_release_hook(self, device: PciAddress) -> None:
        """Run the operator's program for a device that a guest had."""
        self._ask(RunReleaseHook(device=str(device)))


def ask_over(path: Path, seconds: float = 30.0) -> Ask:
    """Return what asks the helper that listens at a path.

    Args:
        path: Of its Unix socket.
        seconds: How long to wait; the helper's own deadline is shorter, but for a release hook.
    """

    def ask(request: Request) -> JsonValue:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            is_hook = isinstance(request, RunReleaseHook)
            connection.settimeout(_HOOK_SECONDS if is_hook else seconds)
            try:
                connection.connect(str(path))
                connection.sendall(write_line(request))
                line = _read_answer(connection)
            except TimeoutError:
                raise OperationTimeoutError(
                    f"the root helper did not come back within {connection.gettimeout():g} s"
                ) from None
            except OSError as error:
                raise _missing(path, error, request) from error
        return _result(line)

    return ask


def refuse(why: str) -> Ask:
    """Return what refuses every request, and says what to run by hand.

    Args:
        why: There is no helper.
    """

    def ask(request: Request) -> JsonValue:
        raise NotSupportedError(why, hint=f"run on the host, as root: {by_hand(request)}")

    return ask


def by_hand(request: Request) -> str:
    """Return the command that does, as root and on the host, what a request asks for."""
    match request:
        case SetVirtualFunctions():
            directory = f"/sys/bus/pci/devices/{request.device}"
            return (
                f"cd {directory}; echo {int(request.autoprobe)} > sriov_drivers_autoprobe; "
                f"echo 0 > sriov_numvfs; echo {request.count} > sriov_numvfs"
            )
        case SetVgpuType():
            directory = f"/sys/bus/pci/devices/{request.device}"
            return f"echo {request.vgpu_type} > {directory}/nvidia/current_vgpu_type"
        case WriteBootRule():
            return "hypeman-libvirt persist --show > /etc/udev/rules.d/70-hypeman-libvirt.rules"
        case ForgetBootRule() | ListBootRules():
            return "cat /etc/udev/rules.d/70-hypeman-libvirt.rules"
        case ReadConfigSpace():
            return f"lspci -s {request.device} -xxxx"
        case RunReleaseHook():
            return f"the program that on_release names, with {request.device}"


def _read_answer(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) <= LONGEST_ANSWER:
        more = connection.recv(65536)
        if not more:
            break
        line += more
    return line


def _result(line: bytes) -> JsonValue:
    try:
        answer = Answer.model_validate_json(line)
    except ValidationError as error:
        raise _strange() from error
    if answer.problem is None:
        return answer.result
    kind = _KINDS.get(answer.problem.code, HelperFailedError)
    raise kind(answer.problem.message)


def _strange() -> HelperFailedError:
    return HelperFailedError(
        "the root helper gave no answer that can be read",
        hint="journalctl -u hypeman-libvirt-helper says why",
    )


def _missing(path: Path, error: OSError, request: Request) -> DeviceError:
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return _strange()
    if isinstance(error, PermissionError):
        return NotSupportedError(
            f"this user may not ask the root helper at {path}",
            hint=f"run the service as the user of the package, or as root: {by_hand(request)}",
        )
    return NotSupportedError(
        f"the root helper does not listen at {path} ({error.strerror})",
        hint=f"{_START}; or as root: {by_hand(request)}",
    )
