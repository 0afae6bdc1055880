"""The page beside others: virsh, another page, a service and a libvirt that go away."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import expect

from hypeman_libvirt.devices.errors import DeviceError
from tests.api.client import token
from tests.fake_host import FakeHost
from tests.page.conftest import OpenPage
from tests.page.serving import serving
from tests.page.views import PATIENT
from tests.world import OPERATOR, World

pytestmark = pytest.mark.page

L4 = "0000:a2:00.0"


def test_what_virsh_does_appears_and_is_marked(fake_host: FakeHost, open_page: OpenPage) -> None:
    page = open_page()
    fake_host.virsh_attach("vm-off", L4, live=False)
    page.see(L4, "vm-off")
    page.see(L4, "changed: now with vm-off")
    fake_host.add_pci("0000:77:00.0", product_name="New card", driver="igb", group=77)
    page.see("0000:77:00.0", "changed: appeared")
    expect(page.page.locator(".quiet")).to_contain_text("0000:77:00.0 appeared")


def test_a_running_guest_loses_nothing_by_a_slip(world: World, open_page: OpenPage) -> None:
    world.service.register(L4, "l4-gpu", {}, OPERATOR)
    world.service.attach("l4-gpu", "vm-on", "device", OPERATOR)
    page = open_page()
    page.choose(L4)
    page.fill("detach")
    button = page.page.locator("dialog button[type=submit]")
    expect(button).to_have_attribute("aria-disabled", "true")
    button.click(force=True)
    page.page.locator("dialog [name=confirm]").fill("l4-gpu2")
    button.click(force=True)
    assert world.service.inventory.get("l4-gpu").assignment is not None
    page.page.locator("dialog [name=confirm]").fill("l4-gpu")
    page.submit()
    expect(page.last_job()).to_contain_text("l4-gpu is free", timeout=PATIENT)
    page.last_job().get_by_role("button", name="Undo").click()
    page.see(L4, "vm-on")


def test_two_pages_are_one_host(world: World, open_page: OpenPage) -> None:
    world.service.register(L4, "l4-gpu", {}, OPERATOR)
    one, two = open_page(), open_page()
    one.choose(L4)
    two.choose(L4)
    one.act("rename", name="ours")
    two.see(L4, "ours")
    two.act("bind")
    one.see(L4, "vfio-pci")
    expect(one.action("bind")).to_have_attribute("aria-disabled", "true", timeout=PATIENT)


def test_more_pages_than_may_listen_look_every_few_seconds(
    fake_host: FakeHost, open_page: OpenPage
) -> None:
    same = token(sub="ann")
    first = open_page(same)
    second = open_page(None)
    second.sign_in(same)
    second.page.wait_for_selector(".card")
    expect(second.page.locator(".contact")).to_contain_text("looks every few seconds")
    fake_host.virsh_attach("vm-off", L4, live=False)
    first.see(L4, "vm-off")
    second.see(L4, "vm-off")


def test_libvirt_goes_and_comes_back(fake_host: FakeHost, open_page: OpenPage) -> None:
    page = open_page()
    fake_host.down()
    contact = page.page.locator(".contact")
    expect(contact).to_contain_text("Not what is now", timeout=PATIENT)
    expect(contact).to_contain_text("since")
    expect(page.card(L4)).to_be_visible()
    fake_host.up()
    expect(contact).to_contain_text("live", timeout=PATIENT)
    fake_host.virsh_attach("vm-off", L4, live=False)
    page.see(L4, "vm-off")


def test_the_service_goes_and_comes_back(world: World, open_page: OpenPage) -> None:
    page = open_page()
    contact = page.page.locator(".contact")
    page.page.context.set_offline(True)
    expect(contact).to_contain_text("does not answer, since", timeout=PATIENT)
    world.service.register(L4, "l4-gpu", {}, OPERATOR)
    expect(page.card(L4)).to_be_visible()
    page.page.context.set_offline(False)
    expect(contact).to_contain_text("live", timeout=PATIENT)
    page.see(L4, "l4-gpu")


def test_a_service_that_ends_leaves_the_picture(world: World, open_page: OpenPage) -> None:
    with serving(world) as server:
        page = open_page(base=f"http://127.0.0.1:{server.port}")
    expect(page.page.locator(".contact")).to_contain_text("does not answer", timeout=PATIENT)
    expect(page.card(L4)).to_be_visible()


def test_a_quarantine_is_seen_and_ended(
    fake_host: FakeHost, world: World, open_page: OpenPage
) -> None:
    world.service.register(L4, "l4-gpu", {}, OPERATOR)
    world.service.bind("l4-gpu", "device", OPERATOR)
    fake_host.driver_refuses(L4)
    with pytest.raises(DeviceError):
        world.service.unbind("l4-gpu", "device", OPERATOR)
    page = open_page()
    page.see(L4, "quarantined")
    page.choose(L4)
    page.act("clear", confirm="l4-gpu")
    expect(page.last_job()).to_contain_text("l4-gpu is out of quarantine", timeout=PATIENT)
    expect(page.card(L4).locator(".trouble")).to_have_count(0, timeout=PATIENT)
    assert world.service.inventory.get("l4-gpu").quarantine is None


def test_the_operator_says_where_a_card_is(
    fake_host: FakeHost, world: World, open_page: OpenPage
) -> None:
    for bus in ("51", "52"):
        fake_host.add_pci(f"0000:{bus}:00.0", product="2684", group=int(bus), driver="nvidia")
    world.service.register("0000:51:00.0", "left", {}, OPERATOR)
    fake_host.add_pci("0000:53:00.0", product="2684", group=53, driver="nvidia")
    page = open_page()
    lost = page.page.locator(".lost .pick")
    expect(lost).to_contain_text("its card may have moved", timeout=PATIENT)
    lost.click()
    expect(page.action("bind")).to_have_attribute("aria-disabled", "true")
    page.act("move", confirm="left", pci_address="0000:53:00.0")
    page.see("0000:53:00.0", "left")
    assert str(world.service.inventory.get("left").registration.pci_address) == "0000:53:00.0"


def test_an_expired_token_leads_back_to_signing_in(open_page: OpenPage) -> None:
    page = open_page(token(sub="ann", exp=int(time.time()) + 4))
    alert = page.page.get_by_role("alert")
    expect(alert).to_contain_text("the token has expired", timeout=PATIENT)
    page.sign_in(token(sub="ann"))
    page.wait_for_picture()


def test_a_wrong_token_is_told_so(open_page: OpenPage) -> None:
    page = open_page(None)
    page.sign_in("wrong")
    expect(page.page.get_by_role("alert")).to_contain_text("the token is not valid here")


def test_a_token_in_memory_is_gone_with_the_page(open_page: OpenPage) -> None:
    page = open_page()
    stored = "[localStorage.length, sessionStorage.length, document.cookie.length]"
    assert page.run_script(stored) == [0, 0, 0]
    page.open()
    expect(page.page.get_by_role("textbox", name="Token")).to_be_visible()


def test_whoever_stays_signed_in_does_so_by_a_cookie_out_of_reach(open_page: OpenPage) -> None:
    page = open_page(keep=True)
    assert page.run_script("document.cookie") == ""
    page.open()
    page.wait_for_picture()
    page.choose(L4)
    page.act("register", name="l4-gpu")
    page.see(L4, "l4-gpu")
    page.page.get_by_role("button", name="Sign out").click()
    expect(page.page.get_by_role("textbox", name="Token")).to_be_visible()
    page.open()
    expect(page.page.get_by_role("textbox", name="Token")).to_be_visible()
