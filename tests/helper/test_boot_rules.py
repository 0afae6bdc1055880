"""The file of udev rules: what is written, and what is read back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.errors import HelperFailedError, IdentityChangedError
from hypeman_libvirt.helper.actions import Actions
from hypeman_libvirt.helper.boot_rules import RULES, BootRuleFiles, format_rules, parse_rules
from hypeman_libvirt.helper.protocol import (
    ForgetBootRule,
    ListBootRules,
    RuleBody,
    WriteBootRule,
)
from tests.helper.fake_kernel import GPU, NIC, FakeKernel

TO_VFIO = BootRule(PciAddress.parse(GPU), "10de", "27b8", "pci0000:a0/00.0")
FUNCTIONS = BootRule(
    PciAddress.parse(NIC), "15b3", "101d", "pci0000:3a/01.0/00.0", virtual_functions=4
)


def test_a_device_goes_to_vfio_only_if_it_is_the_one_that_was_meant() -> None:
    (line,) = [each for each in format_rules([TO_VFIO]).splitlines() if each[:1] == "A"]
    assert line.split(", ") == [
        'ACTION=="add"',
        'SUBSYSTEM=="pci"',
        'KERNEL=="0000:a2:00.0"',
        'ATTR{vendor}=="0x10de"',
        'ATTR{device}=="0x27b8"',
        'DEVPATH=="/devices/pci0000:a0/0000:??:00.0"',
        'ATTR{driver_override}="vfio-pci"',
        'ATTR{[subsystem/pci]drivers_probe}="$kernel"',
        'RUN{builtin}+="kmod load vfio-pci"',
    ]


def test_virtual_functions_are_made_when_the_host_driver_has_the_card() -> None:
    (line,) = [each for each in format_rules([FUNCTIONS]).splitlines() if each[:1] == "A"]
    assert line.startswith('ACTION=="bind", DRIVER!="vfio-pci", SUBSYSTEM=="pci", ')
    assert line.endswith('ATTR{sriov_drivers_autoprobe}="0", ATTR{sriov_numvfs}="4"')
    assert 'DEVPATH=="/devices/pci0000:3a/0000:??:01.0/0000:??:00.0"' in line


def test_a_chain_through_vmd_has_both_domains() -> None:
    behind = BootRule(
        PciAddress.parse("10000:e1:00.0"), "144d", "a80a", "pci0000:00/0e.0/pci10000:e0/00.0/00.0"
    )
    path = re.search(r'DEVPATH=="([^"]+)"', format_rules([behind]))
    assert path is not None
    assert path[1] == "/devices/pci0000:00/0000:??:0e.0/pci10000:e0/10000:??:00.0/10000:??:00.0"


def test_no_rule_binds_by_ids_alone() -> None:
    assert "new_id" not in format_rules([TO_VFIO, FUNCTIONS])


def test_what_is_written_is_read_back() -> None:
    rules = [FUNCTIONS, TO_VFIO, BootRule(PciAddress.parse("0000:01:00.0"), "8086", "1521")]
    assert parse_rules(format_rules(rules)) == sorted(rules, key=lambda rule: rule.address)


def test_a_file_that_was_changed_by_hand_is_not_thrown_away(tmp_path: Path) -> None:
    file = tmp_path / RULES
    file.parent.mkdir(parents=True)
    file.write_text('# {"device": "all of them"}\n')
    with pytest.raises(HelperFailedError, match="changed by hand"):
        BootRuleFiles(tmp_path).put(TO_VFIO)
    assert file.read_text() == '# {"device": "all of them"}\n'


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HelperFailedError, match="udev"):
        BootRuleFiles(tmp_path).put(TO_VFIO)


def test_rules_are_written_listed_and_forgotten(tmp_path: Path) -> None:
    kernel = FakeKernel(tmp_path)
    actions = Actions(tmp_path, write=kernel.write)
    assert actions.perform(ListBootRules()) == []
    actions.perform(WriteBootRule(rule=RuleBody.of(TO_VFIO)))
    actions.perform(WriteBootRule(rule=RuleBody.of(FUNCTIONS)))
    listed = actions.perform(ListBootRules())
    assert isinstance(listed, list)
    assert [RuleBody.model_validate(each).rule() for each in listed] == [FUNCTIONS, TO_VFIO]
    actions.perform(ForgetBootRule(device=NIC))
    actions.perform(ForgetBootRule(device="0000:99:00.0"))
    assert BootRuleFiles(tmp_path).read() == [TO_VFIO]
    assert kernel.writes == []  # what is there now stays as it is


@pytest.mark.parametrize(
    "other",
    [
        BootRule(PciAddress.parse(GPU), "10de", "2330"),
        BootRule(PciAddress.parse(GPU), "10de", "27b8", "pci0000:a0/01.0/00.0"),
    ],
    ids=["ids", "chain"],
)
def test_no_rule_is_written_about_other_hardware(tmp_path: Path, other: BootRule) -> None:
    actions = Actions(tmp_path, write=FakeKernel(tmp_path).write)
    with pytest.raises(IdentityChangedError):
        actions.perform(WriteBootRule(rule=RuleBody.of(other)))
    assert not (tmp_path / RULES).exists()
