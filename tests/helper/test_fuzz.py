"""Whatever is sent to the helper, it answers, and writes nothing but what its verbs are for."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from hypeman_libvirt.helper.actions import Actions
from hypeman_libvirt.helper.protocol import Answer
from hypeman_libvirt.helper.responder import Peer, Responder
from tests.effort import examples
from tests.helper.fake_kernel import GPU, NIC, VF, FakeKernel

ME = os.getuid()
VERBS = [
    "set_virtual_functions",
    "set_vgpu_type",
    "write_boot_rule",
    "forget_boot_rule",
    "list_boot_rules",
    "read_config_space",
]
WRITABLE = re.compile(
    r"etc/udev/rules\.d/70-hypeman-libvirt\.rules"
    r"|sys/devices/pci[^/]+(/[^/]+)*/(sriov_numvfs|sriov_drivers_autoprobe|current_vgpu_type)"
    r"|sys/devices/pci0000:3a/0000:3a:01\.0/0000:3b:0[23]\.\d/(vendor|device|config)"  # its VFs
)
addresses = st.sampled_from(
    [NIC, GPU, VF, "0000:3b:02.1", "0000:99:00.0", "../../../etc", f"{NIC}\n", f"{NIC}/..", "", "."]
) | st.text(max_size=20)
values = (
    st.none()
    | st.booleans()
    | st.integers(-2, 10)
    | st.sampled_from([1155, 1156, 2**64, "10de", "27b8", "15b3", "101d", 'x", RUN+="sh'])
    | addresses
)
rules = st.fixed_dictionaries(
    {"device": addresses, "vendor_id": values, "device_id": values},
    optional={"topology": values, "virtual_functions": values, "autoprobe": values},
)
requests = st.fixed_dictionaries(
    {"verb": st.sampled_from(VERBS)},
    optional={
        "device": addresses,
        "count": values,
        "autoprobe": values,
        "vgpu_type": values,
        "rule": rules | values,
        "more": values,
    },
)
likely = st.one_of(
    st.fixed_dictionaries(
        {
            "verb": st.just("set_virtual_functions"),
            "device": st.just(NIC),
            "count": st.integers(0, 9),
            "autoprobe": st.booleans(),
        }
    ),
    st.fixed_dictionaries(
        {
            "verb": st.just("set_vgpu_type"),
            "device": st.sampled_from([VF, GPU]),
            "vgpu_type": st.sampled_from([0, 1, 1155, 1156]),
        }
    ),
    st.fixed_dictionaries({"verb": st.just("write_boot_rule"), "rule": rules}),
)
lines = st.one_of(
    st.binary(max_size=200),
    requests.map(lambda body: json.dumps(body).encode()),
    likely.map(lambda body: json.dumps(body).encode()),
)


def files(root: Path) -> Mapping[str, bytes]:
    return {
        str(file.relative_to(root)): file.read_bytes()
        for directory, _, names in os.walk(root)
        for name in names
        if not (file := Path(directory, name)).is_symlink()
    }


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(lines, max_size=12))
def test_it_answers_everything_and_writes_only_what_it_may(sent: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        kernel = FakeKernel(Path(directory))
        before = files(kernel.root)
        responder = Responder(Actions(kernel.root, write=kernel.write), {ME})
        for line in sent:
            answer = responder.answer(line, Peer(1, ME))
            assert Answer.model_validate_json(answer.model_dump_json()) == answer
            assert (
                answer.problem is None
                or answer.problem.code != "helper_failed"
                or ("the root helper failed" not in answer.problem.message)
            )
        after = files(kernel.root)
        changed = {
            name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
        }
        assert [name for name in changed if not WRITABLE.fullmatch(name)] == []
        for name, text in kernel.writes:
            assert re.fullmatch(r"\d{1,10}", text), (name, text)
        _demand_plain_rules(kernel.root)


def _demand_plain_rules(root: Path) -> None:
    """No rule does anything but what a boot rule does."""
    file = root / "etc/udev/rules.d/70-hypeman-libvirt.rules"
    text = file.read_text() if file.exists() else ""
    for line in text.splitlines():
        if not line.startswith("#"):
            keys = re.sub(r'"[^"]*"', '""', line)
            assert re.fullmatch(
                r'(ACTION=="", (DRIVER!="", )?SUBSYSTEM=="", KERNEL=="", ATTR\{vendor\}=="", '
                r'ATTR\{device\}==""(, DEVPATH=="")?, '
                r'(ATTR\{driver_override\}="", ATTR\{\[subsystem/pci\]drivers_probe\}="", '
                r'RUN\{builtin\}\+=""|ATTR\{sriov_drivers_autoprobe\}="", '
                r'ATTR\{sriov_numvfs\}=""))?',
                keys,
            ), line
