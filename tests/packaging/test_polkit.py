"""The polkit rule, run by a JavaScript engine with a stand-in for polkit itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

RULE: Final = (
    Path(__file__).parent.parent.parent / "contrib" / "polkit" / "50-hypeman-libvirt.rules"
)
DATA: Final = os.environ.get("XDG_DATA_DIRS") or "/usr/share"
_POLKIT: Final = """
var rule, polkit = {
    Result: {YES: "yes", NOT_HANDLED: "not handled"},
    addRule: function(given) { rule = given; },
};
"""
_ASK: Final = """
var asked = JSON.parse(process.argv[1]);
var action = {id: asked.action, lookup: function(key) { return asked.details[key]; }};
console.log(rule(action, {user: asked.user}));
"""


def ask(action: str, *, user: str = "hypeman-libvirt", node_device: str = "") -> str:
    """Ask the rule as polkit does; its answer."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node to run the rule (nodejs)")
    asked = {"action": action, "user": user, "details": {"node_device_name": node_device}}
    script = _POLKIT + RULE.read_text() + _ASK
    done = subprocess.run(  # noqa: S603  # our own rule
        [node, "--eval", script, json.dumps(asked)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    "action",
    [
        "unix.manage",
        "api.connect.write",  # the domain capabilities, for want of a lesser right
        "api.domain.read-secure",
        "api.domain.save",
        "api.domain.write",
        "api.network.read",
        "api.node-device.read",
        "api.storage-pool.read",
    ],
)
def test_the_service_may_do_its_work(action: str) -> None:
    assert ask(f"org.libvirt.{action}") == "yes"


@pytest.mark.parametrize("user", ["root", "ann", "hypeman-libvirt2"])
def test_nobody_else_gains_a_right(user: str) -> None:
    assert ask("org.libvirt.unix.manage", user=user) == "not handled"


@pytest.mark.parametrize(
    "action",
    [
        "api.connect.pm-control",
        "api.domain.delete",
        "api.domain.start",
        "api.domain.stop",
        "api.node-device.delete",
        "api.storage-pool.delete",
    ],
)
def test_the_service_gets_no_right_that_it_does_not_use(action: str) -> None:
    assert ask(f"org.libvirt.{action}") == "not handled"


def test_only_pci_devices_may_leave_their_driver() -> None:
    detach = "org.libvirt.api.node-device.detach"
    assert ask(detach, node_device="pci_0000_a2_00_0") == "yes"
    assert ask(detach, node_device="usb_1_2") == "not handled"


@pytest.mark.parametrize("right", ["delete", "start", "stop", "write"])
def test_only_mediated_devices_are_made_and_removed(right: str) -> None:
    action = f"org.libvirt.api.node-device.{right}"
    assert ask(action, node_device="mdev_c2177883_f1bb_47f0_914d_32a22e3a8804") == "yes"
    assert ask(action, node_device="new device") == "yes"
    assert ask(action, node_device="pci_0000_a2_00_0") == "not handled"


def test_libvirt_knows_every_right() -> None:
    actions = [Path(each) / "polkit-1" / "actions" for each in DATA.split(os.pathsep)]
    files = [file for each in actions for file in sorted(each.glob("org.libvirt.*.policy"))]
    if not files:
        pytest.skip("needs libvirt's polkit actions (libvirt-daemon-system)")
    known = {name for file in files for name in re.findall(r'id="([^"]+)"', file.read_text())}
    code = re.sub(r"//.*", "", RULE.read_text())
    named = set(re.findall(r'"(org\.libvirt\.[^"]+)"', code))
    assert named
    assert named <= known
