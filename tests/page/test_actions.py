"""Every action, on the demo host, as somebody with a mouse does it."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.api.client import token
from tests.page.conftest import OpenPage
from tests.page.views import PATIENT, HostPage
from tests.world import OPERATOR, World

pytestmark = [pytest.mark.page, pytest.mark.testdriver]

L4 = "0000:a2:00.0"
RTX = "0000:41:00.0"
AUDIO = "0000:41:00.1"
T4 = "0000:65:00.0"


def driver_of(world: World, name: str) -> str | None:
    node = world.service.inventory.get(name).node
    return node.driver if node else None


def domain_of(world: World, name: str) -> str | None:
    assignment = world.service.inventory.get(name).assignment
    return assignment.domain.name if assignment else None


def why_not(page: HostPage, action: str) -> str:
    button = page.action(action)
    expect(button).to_have_attribute("aria-disabled", "true", timeout=PATIENT)
    reason = button.get_attribute("aria-describedby")
    text: str = page.page.locator(f"#{reason}").inner_text()
    return text


def test_from_register_to_unregister(world: World, open_page: OpenPage) -> None:
    page = open_page()
    page.choose(L4)
    page.act("register", name="l4-gpu", tags="team=ml, env=prod")
    page.see(L4, "l4-gpu")
    tags = world.service.inventory.get("l4-gpu").registration.tags
    assert tags == {"team": "ml", "env": "prod"}

    page.act("bind")
    page.see(L4, "vfio-pci")
    assert driver_of(world, "l4-gpu") == "vfio-pci"

    page.act("attach", instance="training (shut off)")
    page.see(L4, "training")
    assert domain_of(world, "l4-gpu") == "training"
    assert why_not(page, "unbind") == "domain training has it; detach it first"
    assert why_not(page, "unregister") == "domain training has it; detach it first"

    page.act("detach")
    expect(page.last_job()).to_contain_text("l4-gpu is free")
    assert domain_of(world, "l4-gpu") is None

    page.act("unbind")
    page.see(L4, "nvidia")
    assert driver_of(world, "l4-gpu") == "nvidia"

    page.act("unregister", confirm="l4-gpu")
    expect(page.card(L4)).not_to_contain_text("l4-gpu")
    assert world.service.inventory.list_devices({}) == []
    by = {each.subject for each in world.service.history.changes()}
    assert by == {"operator-1"}


def test_what_was_done_is_undone(world: World, open_page: OpenPage) -> None:
    world.service.register(L4, "l4-gpu", {"team": "ml"}, OPERATOR)
    page = open_page()
    page.choose(L4)
    for action, values, done, undone in [
        ("bind", {}, "vfio-pci", "nvidia"),
        ("attach", {"instance": "training (shut off)"}, "training", "l4-gpu"),
        ("rename", {"name": "inference-gpu"}, "inference-gpu", "l4-gpu"),
    ]:
        page.act(action, **values)
        page.see(L4, done)
        page.last_job().get_by_role("button", name="Undo").click()
        expect(page.last_job()).to_contain_text("Undone", timeout=PATIENT)
        page.see(L4, undone)
    assert (driver_of(world, "l4-gpu"), domain_of(world, "l4-gpu")) == ("nvidia", None)
    page.act("tag", tags="")
    assert not world.service.inventory.get("l4-gpu").registration.tags
    page.last_job().get_by_role("button", name="Undo").click()
    expect(page.last_job()).to_contain_text("Undone", timeout=PATIENT)
    assert world.service.inventory.get("l4-gpu").registration.tags == {"team": "ml"}


def test_a_group_goes_together_or_not_at_all(world: World, open_page: OpenPage) -> None:
    world.service.register(RTX, "rtx", {}, OPERATOR)
    page = open_page()
    page.choose(RTX)
    checks = page.page.locator(".details .checks").first
    expect(checks).to_contain_text("IOMMU group 54 is not viable without 0000:41:00.1")
    expect(checks).to_contain_text("hypeman-libvirt devices bind rtx --scope group")
    page.fill("bind")
    dialog = page.page.locator("dialog")
    expect(dialog.locator(".checks .error")).to_contain_text("not viable", timeout=PATIENT)
    expect(dialog.locator("button[type=submit]")).to_have_attribute("aria-disabled", "true")
    dialog.locator("[name=scope]").select_option(label="the whole IOMMU group (2 functions)")
    page.submit()
    page.see(AUDIO, "vfio-pci")
    page.see(RTX, "vfio-pci")
    assert why_not(page, "bind") == "it is on vfio-pci already"


def test_what_the_host_uses_asks_for_force_and_the_name(world: World, open_page: OpenPage) -> None:
    world.service.register("0000:01:00.0", "disk", {}, OPERATOR)
    page = open_page()
    page.choose("0000:01:00.0")
    page.fill("bind")
    button = page.page.locator("dialog button[type=submit]")
    expect(button).to_have_attribute("aria-disabled", "true", timeout=PATIENT)
    page.page.locator("dialog [name=force]").check()
    expect(page.page.locator("dialog .words")).to_contain_text("may lose a disk")
    expect(button).to_have_attribute("aria-disabled", "true")
    page.page.locator("dialog [name=confirm]").fill("disk")
    page.submit()
    page.see("0000:01:00.0", "vfio-pci")
    assert world.service.history.changes()[-1].forced


def test_a_vgpu_is_made_shown_inside_its_gpu_and_taken_away(
    world: World, open_page: OpenPage
) -> None:
    page = open_page()
    page.choose(T4)
    page.act("vgpu", profile="GRID T4-4Q (4 more fit)", name="quarter")
    card = page.page.locator(".card", has=page.card(T4))
    expect(card).to_contain_text("quarter", timeout=PATIENT)
    expect(card.locator(".bar")).to_contain_text("of")
    (made,) = world.service.inventory.list_devices({})
    assert made.registration.name == "quarter"
    page.last_job().get_by_role("button", name="Undo").click()
    expect(page.last_job()).to_contain_text("Undone", timeout=PATIENT)
    expect(card).not_to_contain_text("quarter")
    assert not world.service.inventory.list_devices({})


def test_virtual_functions_are_asked_for_or_refused_with_the_reason(open_page: OpenPage) -> None:
    page = open_page()
    page.choose("0000:3b:00.0")
    assert why_not(page, "functions") == "domain edge has 0000:3b:00.3"
    page.choose("0000:b1:00.0")
    page.act("functions", confirm="0000:b1:00.0", count="4")
    expect(page.last_job()).to_contain_text("no root helper; run on the host", timeout=PATIENT)


def test_what_cannot_be_done_says_why(open_page: OpenPage) -> None:
    page = open_page()
    page.choose(L4)
    assert why_not(page, "bind") == "register it first"
    assert why_not(page, "attach") == "register it first"
    page.card("10000:e1:00.0").click()
    assert why_not(page, "register") == "it is in no IOMMU group"


def test_a_token_offers_what_it_allows(world: World, open_page: OpenPage) -> None:
    world.service.register(L4, "l4-gpu", {}, OPERATOR)
    page = open_page(token(sub="guest", permissions=["device:read"]))
    page.choose(L4)
    assert why_not(page, "bind") == "your token lacks device:write"
    assert why_not(page, "unregister") == "your token lacks device:delete"


def test_a_refusal_of_the_service_is_shown_with_its_request(
    world: World, open_page: OpenPage
) -> None:
    world.service.register(RTX, "gpu", {}, OPERATOR)
    page = open_page()
    page.choose(L4)
    page.act("register", name="gpu")
    expect(page.last_job()).to_contain_text("name 'gpu' is taken", timeout=PATIENT)
    expect(page.last_job()).to_contain_text("conflict · request")


def test_the_history_says_who_did_what(world: World, open_page: OpenPage) -> None:
    world.service.register(L4, "l4-gpu", {}, OPERATOR)
    page = open_page()
    page.choose(L4)
    page.act("bind")
    page.page.get_by_role("button", name="History").click()
    rows = page.page.locator("tbody tr")
    expect(rows).to_have_count(2, timeout=PATIENT)
    cells = [row.split("\t")[1:] for row in rows.all_inner_texts()]
    assert sorted(cells) == [
        ["bind", "l4-gpu", "operator-1", "driver vfio-pci"],
        ["register", "l4-gpu", "operator", "driver nvidia"],
    ]
    expect(page.page.locator("figcaption").nth(1)).to_contain_text("1 succeeded, 0 failed")
