"""The operator's program after a release: whose it must be, its deadline, its status."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hypeman_libvirt.devices.errors import (
    HelperFailedError,
    NotSupportedError,
    OperationTimeoutError,
)
from hypeman_libvirt.helper.release_hook import ReleaseHook
from hypeman_libvirt.helper.sysfs import PciSysfs
from tests.helper.fake_kernel import GPU, FakeKernel


class Hook:
    """A program of the operator's, and the settings that name it."""

    def __init__(self, directory: Path) -> None:
        directory.chmod(0o755)
        self.function = PciSysfs(FakeKernel(directory / "host").root).find(GPU)
        self.said = directory / "said"
        self.program, self.config = directory / "wipe", directory / "config.toml"
        self.config.write_text(f'on_release = "{self.program}"\n')

    def run(self, script: str, seconds: float = 60.0) -> None:
        self.program.write_text(f"#!/bin/sh\n{script}\n")
        self.program.chmod(0o755)
        ReleaseHook(self.config, seconds=seconds, owner=os.geteuid()).run(self.function)


@pytest.fixture
def hook(tmp_path: Path) -> Hook:
    return Hook(tmp_path)


def test_it_gets_the_address_and_the_ids(hook: Hook) -> None:
    hook.run(f'echo "$@" > {hook.said}')
    assert hook.said.read_text() == f"{GPU} 10de:27b8\n"


def test_a_status_is_a_failure(hook: Hook) -> None:
    with pytest.raises(HelperFailedError, match="ended with status 3"):
        hook.run("exit 3")


def test_one_that_does_not_end_is_killed(hook: Hook) -> None:
    with pytest.raises(OperationTimeoutError, match="was killed"):
        hook.run("exec sleep 1000", seconds=0.2)


def test_without_a_program_the_setting_is_named(hook: Hook) -> None:
    hook.config.write_text("")
    with pytest.raises(NotSupportedError, match="on_release"):
        hook.run("true")


@pytest.mark.parametrize("which", ["config", "program"])
def test_what_others_can_change_is_not_run(hook: Hook, which: str) -> None:
    hook.run("true")
    file: Path = getattr(hook, which)
    file.chmod(0o777)
    with pytest.raises(HelperFailedError, match="can be changed by others"):
        ReleaseHook(hook.config, owner=os.geteuid()).run(hook.function)
