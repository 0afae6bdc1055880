"""Virtual functions and vGPU types: what the helper writes into sysfs, checked and read back."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from typing import Final

from hypeman_libvirt.devices.errors import (
    BadRequestError,
    HelperFailedError,
    InUseError,
    NotSupportedError,
    NoVirtualFunctionsError,
)
from hypeman_libvirt.helper.sysfs import PciFunction, PciSysfs

_COUNT: Final = "sriov_numvfs"
_AUTOPROBE: Final = "sriov_drivers_autoprobe"
_TYPE: Final = "nvidia/current_vgpu_type"
_CREATABLE: Final = "nvidia/creatable_vgpu_types"
_ENTRY: Final = re.compile(r"^\s*(\d+)\s*:", re.MULTILINE)
"""``ID : vGPU Name``. Source: NVIDIA, Virtual GPU Software User Guide, vendor-specific VFIO."""


def set_virtual_functions(
    sysfs: PciSysfs, physical: PciFunction, count: int, *, autoprobe: bool
) -> None:
    """Enable exactly so many virtual functions, through 0 where there are others.

    A write of 0 under a guest does not return before the guest ends, so it is refused.

    Source: the kernel's sriov_numvfs_store() in drivers/pci/iov.c.

    Raises:
        NoVirtualFunctionsError: The function has no SR-IOV, or no driver that does it.
        BadRequestError: It has not so many.
        InUseError: A process has one that would go.
        HelperFailedError: The kernel refuses; as many are enabled as before, if it lets us.
    """
    before, total = physical.number(_COUNT), physical.number("sriov_totalvfs")
    if before is None or not total:
        raise NoVirtualFunctionsError(f"{physical.address} has no SR-IOV")
    if count > total:
        raise BadRequestError(f"{physical.address} has at most {total} virtual functions")
    if count != before and physical.driver is None:
        raise NoVirtualFunctionsError(f"{physical.address} has no driver, which enables them")
    if count != before and before:
        _refuse_users(sysfs, sysfs.virtual_functions(physical), "would go")
    with ExitStack() as undo:
        _write_undone(physical, _AUTOPROBE, str(int(autoprobe)), undo)
        if count != before:
            _write_count(physical, before, count, undo)
        undo.pop_all()


def set_vgpu_type(sysfs: PciSysfs, function: PciFunction, vgpu_type: int) -> None:
    """Make a vGPU of the type on a virtual function; 0 takes it away.

    Raises:
        NotSupportedError: Its driver makes no vGPUs, or not one of this type now.
        InUseError: A process has it, or it is a vGPU of another type.
        HelperFailedError: The driver refuses, or says another type afterwards; it has none then.
    """
    current = function.number(_TYPE)
    if current is None:
        raise NotSupportedError(f"the driver of {function.address} makes no vGPUs on it")
    if vgpu_type == current:
        return
    _refuse_users(sysfs, [function], "is to change")
    if current and vgpu_type:
        raise InUseError(
            f"{function.address} is a vGPU of type {current}", hint="take that away first"
        )
    if vgpu_type and vgpu_type not in _creatable(function):
        raise NotSupportedError(f"{function.address} cannot be a vGPU of type {vgpu_type} now")
    with ExitStack() as undo:
        if vgpu_type:
            undo.callback(_attempt, lambda: function.write(_TYPE, "0"))
        function.write(_TYPE, str(vgpu_type))
        if (after := function.number(_TYPE)) != vgpu_type:
            raise HelperFailedError(
                f"the driver took vGPU type {vgpu_type} for {function.address} and says {after}",
                hint="the kernel log of the host says why (dmesg)",
            )
        undo.pop_all()


def _write_count(physical: PciFunction, before: int, count: int, undo: ExitStack) -> None:
    undo.callback(_attempt, lambda: _restore_count(physical, before))
    if before:
        physical.write(_COUNT, "0")
    if count:
        physical.write(_COUNT, str(count))
    if (after := physical.number(_COUNT)) != count:
        raise HelperFailedError(
            f"{physical.address} has {after} virtual functions after {count} were asked for",
            hint="the kernel log of the host says why (dmesg)",
        )


def _restore_count(physical: PciFunction, count: int) -> None:
    if physical.number(_COUNT) not in {0, count}:
        physical.write(_COUNT, "0")
    if count and physical.number(_COUNT) != count:
        physical.write(_COUNT, str(count))


def _write_undone(physical: PciFunction, name: str, text: str, undo: ExitStack) -> None:
    """Write, unless it says so already; a kernel without the file does as it always did."""
    before = physical.text(name)
    if before is not None and before != text:
        undo.callback(_attempt, lambda: physical.write(name, before))
        physical.write(name, text)


def _refuse_users(sysfs: PciSysfs, functions: Collection[PciFunction], what: str) -> None:
    users = sysfs.users(functions)
    if users:
        raise InUseError(
            f"{', '.join(users)} has {', '.join(str(each.address) for each in functions)} open, "
            f"which {what}",
            hint="end it first",
        )


def _creatable(function: PciFunction) -> frozenset[int]:
    return frozenset(map(int, _ENTRY.findall(function.text(_CREATABLE) or "")))


def _attempt(step: Callable[[], None]) -> None:
    """Undo as far as the kernel lets us: the error that made it necessary is reported."""
    with suppress(HelperFailedError):
        step()
