"""What the helper does for each verb, after its arguments were checked against live sysfs."""

from __future__ import annotations

from pathlib import Path

from pydantic import JsonValue

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.errors import IdentityChangedError
from hypeman_libvirt.helper import slices
from hypeman_libvirt.helper.boot_rules import BootRuleFiles
from hypeman_libvirt.helper.protocol import (
    ForgetBootRule,
    ListBootRules,
    ReadConfigSpace,
    Request,
    RuleBody,
    RunReleaseHook,
    SetVgpuType,
    SetVirtualFunctions,
    WriteBootRule,
)
from hypeman_libvirt.helper.release_hook import ReleaseHook
from hypeman_libvirt.helper.sysfs import PciFunction, PciSysfs, Write, write_file


class Actions:
    """The verbs, on the host below a root directory."""

    def __init__(
        self, root: Path = Path("/"), hook: ReleaseHook | None = None, write: Write = write_file
    ) -> None:
        """Act below ``root``, which is ``/`` but for tests.

        Args:
            root: Has ``sys``, ``proc`` and ``etc``.
            hook: Runs the operator's program; None for the one of the packaged settings.
            write: Writes into a file of sysfs.
        """
        self._sysfs = PciSysfs(root, write)
        self._rules = BootRuleFiles(root)
        self._hook = hook or ReleaseHook()

    def lock_of(self, request: Request) -> str | None:
        """Return what excludes requests that write to the same card; None where nothing has to."""
        if isinstance(request, SetVirtualFunctions | SetVgpuType | RunReleaseHook):
            function = self._sysfs.find(request.device)
            return str(self._sysfs.physical_function(function))
        return None

    def perform(self, request: Request) -> JsonValue:
        """Do what is asked.

        Raises:
            DeviceError: It is not possible; nothing has changed then, as far as the kernel lets us.
        """
        match request:
            case SetVirtualFunctions():
                physical = self._sysfs.find(request.device)
                slices.set_virtual_functions(
                    self._sysfs, physical, request.count, autoprobe=request.autoprobe
                )
            case SetVgpuType():
                function = self._sysfs.find(request.device)
                slices.set_vgpu_type(self._sysfs, function, request.vgpu_type)
            case WriteBootRule():
                rule = request.rule.rule()
                _demand_identity(self._sysfs.find(request.device), rule)
                self._rules.put(rule)
            case ForgetBootRule():
                self._rules.remove(PciAddress.parse(request.device))
            case ListBootRules():
                return [
                    RuleBody.of(each).model_dump(mode="json", exclude_none=True)
                    for each in self._rules.read()
                ]
            case ReadConfigSpace():
                return self._sysfs.find(request.device).config_space().hex()
            case RunReleaseHook():
                self._hook.run(self._sysfs.find(request.device))
        return None


def _demand_identity(function: PciFunction, rule: BootRule) -> None:
    """Refuse a rule about other hardware than is there now.

    Raises:
        IdentityChangedError: Ids or chain of bridges differ.
    """
    ids = (function.hex_id("vendor"), function.hex_id("device"))
    if ids != (rule.vendor_id, rule.device_id):
        raise IdentityChangedError(
            f"{':'.join(ids)} is at {rule.address}, not {rule.vendor_id}:{rule.device_id}"
        )
    if rule.topology is not None and rule.topology != function.topology:
        raise IdentityChangedError(f"{rule.address} is at {function.topology}, not {rule.topology}")
