"""What is shown, whatever the host is called and however large it is; and to whom."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import expect

from tests.api.client import token
from tests.fake_host import FakeHost
from tests.page.conftest import OpenPage
from tests.page.views import PATIENT
from tests.world import OPERATOR, World

pytestmark = pytest.mark.page

ROOT: Final = Path(__file__).parents[2]
L4: Final = "0000:a2:00.0"
HOSTILE: Final = "<img src=x onerror=alert(1)>"
RIGHT_TO_LEFT: Final = "\u202egpj.exe\u202c \u0645\u0631\u062d\u0628\u0627"


def test_hostile_names_are_text(fake_host: FakeHost, open_page: OpenPage, world: World) -> None:
    fake_host.add_pci("0000:77:00.0", product_name=HOSTILE, driver="<b>nvidia</b>", group=77)
    fake_host.add_pci("0000:78:00.0", product_name=RIGHT_TO_LEFT, driver="nvidia", group=78)
    fake_host.add_pci("0000:79:00.0", product_name="x" * 128, driver="nvidia", group=79)
    world.service.register("0000:79:00.0", "n" * 128, {"k" * 128: "v" * 256}, OPERATOR)
    page = open_page()
    page.see("0000:77:00.0", HOSTILE)
    page.see("0000:77:00.0", "<b>nvidia</b>")
    page.see("0000:78:00.0", RIGHT_TO_LEFT)
    page.see("0000:79:00.0", "n" * 128)
    assert page.page.locator("img").count() == 0
    for key in ("0000:77:00.0", "0000:78:00.0", "0000:79:00.0"):
        page.choose(key)
        assert page.run_script(OVERFLOW) == 0


OVERFLOW: Final = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def test_filters_by_state_and_tag(world: World, open_page: OpenPage) -> None:
    world.service.register(L4, "l4-gpu", {"team": "ml"}, OPERATOR)
    world.service.bind("l4-gpu", "device", OPERATOR)
    page = open_page()
    for label, state in [("State", "On vfio-pci"), ("State", "Registered"), ("Tag", "team=ml")]:
        page.page.get_by_role("combobox", name=label, exact=True).select_option(label=state)
        expect(page.page.locator(".card")).to_have_count(1, timeout=PATIENT)
    page.page.get_by_role("button", name="Show all").click()
    bridges = page.page.locator(".card.bridge")
    expect(bridges).to_have_count(0)
    page.page.get_by_label("Bridges", exact=True).check()
    expect(bridges).to_have_count(1)


def test_a_card_that_is_gone_is_still_there_by_name(
    fake_host: FakeHost, world: World, open_page: OpenPage
) -> None:
    world.service.register(L4, "l4-gpu", {}, OPERATOR)
    page = open_page()
    fake_host.vanish("pci_0000_a2_00_0")
    lost = page.page.locator(".lost")
    expect(lost).to_contain_text("l4-gpu", timeout=PATIENT)
    expect(lost).to_contain_text("its card is not on the host")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(
    world: World, open_page: OpenPage, node_modules: Path, scheme: str
) -> None:
    world.service.register(L4, "l4-gpu", {"team": "ml"}, OPERATOR)
    page = open_page(None, color_scheme=scheme, reduced_motion="reduce")
    found = {"sign-in": page.complaints(node_modules)}
    page.sign_in("wrong")
    expect(page.page.get_by_role("alert")).to_contain_text("not valid")
    found["refused"] = page.complaints(node_modules)
    page.sign_in(token(sub="ann"))
    page.wait_for_picture()
    page.page.get_by_label("Bridges", exact=True).check()
    found["host"] = page.complaints(node_modules)
    page.choose("0000:41:00.0")
    found["details"] = page.complaints(node_modules)
    page.choose(L4)
    page.fill("unregister")
    found["dialog"] = page.complaints(node_modules)
    page.page.keyboard.press("Escape")
    page.act("bind")
    found["done"] = page.complaints(node_modules)
    page.page.get_by_role("button", name="History").click()
    page.page.wait_for_selector("tbody tr")
    found["history"] = page.complaints(node_modules)
    assert not any(found.values()), found


@pytest.mark.parametrize("width", [360, 640], ids=["phone", "desk-at-200-percent"])
def test_on_a_narrow_screen_nothing_is_cut_off(
    world: World, open_page: OpenPage, node_modules: Path, width: int
) -> None:
    world.service.register(L4, "l4-gpu", {}, OPERATOR)
    page = open_page(viewport={"width": width, "height": 740})
    assert page.run_script(OVERFLOW) == 0
    page.choose(L4)
    expect(page.page.locator(".picture")).to_be_hidden()
    assert page.run_script(OVERFLOW) == 0
    page.fill("unregister")
    assert page.run_script(OVERFLOW) == 0
    assert page.complaints(node_modules) == []
    page.page.keyboard.press("Escape")
    page.page.get_by_role("button", name="Close").click()
    expect(page.card(L4)).to_be_focused()


def test_the_keyboard_alone_does_it(world: World, open_page: OpenPage) -> None:
    page = open_page()
    keyboard = page.page.keyboard
    keyboard.press("/")
    expect(page.page.get_by_label("Search", exact=True)).to_be_focused()
    keyboard.type("l4")
    page.card(L4).focus()
    keyboard.press("Enter")
    expect(page.page.locator("#details-heading")).to_be_focused()
    page.page.wait_for_selector(".details .fine")
    for _ in range(3):
        keyboard.press("Tab")
        if page.run_script("document.activeElement.dataset.action") == "register":
            break
    keyboard.press("Enter")
    expect(page.page.locator("dialog [name=name]")).to_be_focused()
    keyboard.press("Escape")
    expect(page.action("register")).to_be_focused()
    keyboard.press("Enter")
    expect(page.page.locator("dialog [name=name]")).to_be_focused()
    keyboard.type("by-keyboard")
    keyboard.press("Enter")
    page.see(L4, "by-keyboard")
    assert world.service.inventory.get("by-keyboard").node is not None
    page.page.get_by_label("Search", exact=True).fill("")
    page.card(L4).focus()
    keyboard.press("Home")
    first = page.run_script("document.activeElement.dataset.key")
    keyboard.press("ArrowDown")
    assert page.run_script("document.activeElement.dataset.key") != first


def test_whoever_wants_no_motion_gets_none(fake_host: FakeHost, open_page: OpenPage) -> None:
    page = open_page(reduced_motion="reduce")
    fake_host.virsh_attach("vm-off", L4, live=False)
    mark = page.card(L4).locator(".mark")
    expect(mark).to_be_visible(timeout=PATIENT)
    assert mark.evaluate("each => getComputedStyle(each).animationName") == "none"


def test_the_source_fits_its_types(node_modules: Path) -> None:
    done = subprocess.run(  # noqa: S603  # the compiler that is installed here
        [node_modules / ".bin" / "tsc", "-p", ROOT / "contrib" / "page" / "tsconfig.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout + done.stderr == ""


def test_messages_are_cut_wherever_the_network_did(open_page: OpenPage) -> None:
    page = open_page(None)
    text = 'id: 1\nevent: bound\ndata: {"a": 1}\n\n: nothing new\n\nid: 2\nda'
    cut = page.run_script(f"import('./stream.js').then((m) => m.cutMessages({json.dumps(text)}))")
    assert cut["messages"] == [{"id": "1", "type": "bound", "data": '{"a": 1}'}]
    assert cut["rest"] == "id: 2\nda"


def test_what_others_did_is_told_from_what_the_service_did(open_page: OpenPage) -> None:
    page = open_page(None)
    at = "2025-01-15T10:00:00Z"
    base = {"at": at, "id": "x", "name": "l4", "pci_address": L4, "current_driver": "vfio-pci"}
    change = {**base, "action": "bind", "by": "ann", "forced": False, "attached_domain": None}
    event = {**base, "type": "bound", "attached_to": None}
    other = {**event, "type": "appeared", "pci_address": "0000:01:00.0"}
    history = {"changes": [change], "events": [event, other]}
    lines = page.run_script(f"import('./history.js').then((m) => m.lines({json.dumps(history)}))")
    who = [(each["what"], each["by"], each["address"]) for each in lines]
    assert who == [
        ("bind", "ann", L4),
        ("appeared", "not through this service", "0000:01:00.0"),
    ]
