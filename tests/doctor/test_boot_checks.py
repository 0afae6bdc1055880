"""What doctor says of the root helper, and of what should hold over a reboot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hypeman_libvirt.devices.address import PciAddress
from hypeman_libvirt.devices.boot_rule import BootRule
from hypeman_libvirt.devices.errors import HelperFailedError
from hypeman_libvirt.devices.model import GroupMember, GroupReport
from hypeman_libvirt.doctor.boot_checks import check_boot, check_helper
from hypeman_libvirt.doctor.facts import Facts, Finding, Unit
from tests.doctor.test_checks import NODE, WELL

RULE = BootRule(NODE.address, NODE.vendor_id, NODE.device_id)
LISTENS = Unit("hypeman-libvirt-helper.socket", "active", "listening", "enabled", 0, "", None)


def with_rule(driver: str | None = "vfio-pci", **changes: object) -> Facts:
    node = replace(NODE, driver=driver)
    group = GroupReport(82, (GroupMember(node, None, None),), viable=True, reason=None)
    facts = replace(WELL, boot_rules=[RULE], written_rules=[RULE], groups=[group])
    return replace(facts, **changes)  # type: ignore[arg-type]


def one(findings: object) -> Finding:
    (finding,) = list(findings)  # type: ignore[call-overload]
    assert isinstance(finding, Finding)
    return finding


def test_a_helper_that_listens_is_well() -> None:
    assert one(check_helper(replace(WELL, helper=LISTENS))).severity == "ok"


@pytest.mark.parametrize("wrong", [{"active": "inactive"}, {"enabled": "disabled"}])
def test_a_helper_that_does_not_listen_after_the_next_boot_is_started(
    wrong: dict[str, str],
) -> None:
    helper = replace(LISTENS, **wrong)  # type: ignore[arg-type]
    finding = one(check_helper(replace(WELL, helper=helper)))
    assert finding.severity == "warning"
    assert finding.cure == "systemctl enable --now hypeman-libvirt-helper.socket"


def test_nobody_misses_a_helper_that_nobody_needs() -> None:
    assert list(check_helper(WELL)) == []
    assert "not installed" in one(check_helper(with_rule())).message


def test_what_is_written_down_and_holds_is_well() -> None:
    assert one(check_boot(with_rule())).message == "1 boot rule(s) are written down, and hold"
    assert list(check_boot(WELL)) == []


@pytest.mark.parametrize(
    ("facts", "said", "cure"),
    [
        (with_rule(written_rules=[]), "is not in /etc/udev", "systemctl restart hypeman-libvirt"),
        (with_rule("nvidia"), "and is on nvidia", "devices bind 0000:a2:00.0"),
        (with_rule(None), "and is on no driver", "devices bind"),
        (with_rule(groups=[]), "and nothing is there", "plug the card in"),
        (
            with_rule(written_rules=HelperFailedError("changed by hand")),
            "changed by hand",
            "remove /etc/udev",
        ),
        (with_rule(boot_rules=[]), "which the registry does not know", "remove its lines"),
        (
            with_rule(
                boot_rules=[replace(RULE, device_id="2330")],
                written_rules=[replace(RULE, device_id="2330")],
            ),
            "another card is there",
            "devices list",
        ),
    ],
    ids=["not written", "host driver", "no driver", "gone", "damaged", "unknown", "foreign"],
)
def test_what_is_not_as_it_should_be_is_named_with_its_cure(
    facts: Facts, said: str, cure: str
) -> None:
    finding = one(check_boot(facts))
    assert said in finding.message
    assert cure in (finding.cure or "")


def test_virtual_functions_are_no_matter_of_vfio() -> None:
    rule = replace(RULE, virtual_functions=4)
    facts = with_rule("nvidia", boot_rules=[rule], written_rules=[rule])
    assert one(check_boot(facts)).severity == "ok"


def test_another_machine_is_not_asked() -> None:
    address = PciAddress.parse("0000:05:00.0")
    facts = with_rule(machine=None, written_rules=[replace(RULE, address=address)])
    assert list(check_boot(facts)) == []
