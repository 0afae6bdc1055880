"""The operator's program that runs after a guest had a device, such as one that wipes it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess  # nosec B404 - the operator's own program
import tomllib
from pathlib import Path
from typing import Final

from hypeman_libvirt.defaults import DEFAULT_CONFIG
from hypeman_libvirt.devices.errors import (
    HelperFailedError,
    NotSupportedError,
    OperationTimeoutError,
)
from hypeman_libvirt.helper.sysfs import PciFunction

_SETTING: Final = "on_release"
_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


class ReleaseHook:
    """Runs the program that root has named in the settings file, and no other."""

    def __init__(
        self, config: Path = DEFAULT_CONFIG, *, seconds: float = 300.0, owner: int = 0
    ) -> None:
        """Read the program's path from this file each time.

        Args:
            config: Settings of the service, in TOML.
            seconds: How long the program may take.
            owner: User id that file, program and their directories must belong to.
        """
        self._config = config
        self._seconds = seconds
        self._owner = owner

    def run(self, function: PciFunction) -> None:
        """Run it with the address, and ``vendor:device``, as arguments.

        Raises:
            NotSupportedError: The settings name none.
            HelperFailedError: It is not root's alone, cannot be run, or ends with another status.
            OperationTimeoutError: It does not end in time; it was killed.
        """
        program = self._program()
        ids = f"{function.hex_id('vendor')}:{function.hex_id('device')}"
        try:
            process = subprocess.Popen(  # noqa: S603  # nosec B603 - root has named it
                [program, str(function.address), ids],
                stdin=subprocess.DEVNULL,
                env={"PATH": _PATH},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise HelperFailedError(f"{program} cannot be run: {error.strerror}") from error
        self._await(process, program)

    def _await(self, process: subprocess.Popen[bytes], program: Path) -> None:
        try:
            status = process.wait(self._seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise OperationTimeoutError(
                f"{program} did not end within {self._seconds:g} s, and was killed"
            ) from None
        if status:
            raise HelperFailedError(
                f"{program} ended with status {status}",
                hint="journalctl -u hypeman-libvirt-helper has what it printed",
            )

    def _program(self) -> Path:
        self._demand_trusted(self._config)
        try:
            named = tomllib.loads(self._config.read_text()).get(_SETTING)
        except (OSError, ValueError):
            named = None
        if not isinstance(named, str) or not named.startswith("/"):
            raise NotSupportedError(
                f"no program is named by {_SETTING} in {self._config}",
                hint=f'write {_SETTING} = "/path" there',
            )
        program = Path(os.path.realpath(named))
        self._demand_trusted(program)
        return program

    def _demand_trusted(self, file: Path) -> None:
        """Refuse what somebody else could change.

        Raises:
            HelperFailedError: The file or a directory above it is not root's alone.
        """
        for each in (file, *file.parents):
            try:
                status = each.stat()
            except OSError:
                continue  # whoever opens it says so
            sticky = status.st_mode & stat.S_ISVTX and each != file
            if status.st_uid not in {0, self._owner} or (status.st_mode & _OTHERS and not sticky):
                raise HelperFailedError(
                    f"{each} can be changed by others than root, so {file} is not run or read"
                )
