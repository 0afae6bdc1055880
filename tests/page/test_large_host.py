"""A host of more than a thousand functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.page.conftest import OpenPage
from tests.page.views import PATIENT
from tests.world import OPERATOR, World, world_on

pytestmark = [pytest.mark.page, pytest.mark.testdriver]

FUNCTION = """<device><name>pci_{name}</name><path>{path}</path><parent>{parent}</parent>
<driver><name>{driver}</name></driver><capability type='pci'><class>{code}</class>
<domain>1</domain><bus>{bus}</bus><slot>{slot}</slot><function>{function}</function>
<product id='0x27b8'>{product}</product><vendor id='0x10de'>NVIDIA Corporation</vendor>{more}
<iommuGroup number='{group}'>
<address domain='0x0001' bus='0x{bus:02x}' slot='0x{slot:02x}' function='0x{function}'/>
</iommuGroup><numa node='{numa}'/></capability></device>"""


def describe_functions(ports: int) -> Iterator[str]:
    """Write root ports with eight functions below each, every one in a group of its own."""
    for number in range(ports):
        bus, slot = 128 + number // 32, number % 32
        port = f"0001_{bus:02x}_{slot:02x}_0"
        path = f"/sys/devices/pci0001:{bus:02x}/0001:{bus:02x}:{slot:02x}.0"
        at = {"bus": bus, "slot": slot, "numa": number % 2}
        yield FUNCTION.format(
            name=port,
            path=path,
            parent="computer",
            driver="pcieport",
            code="0x060400",
            function=0,
            product="Root port",
            more="<capability type='pci-bridge'/>",
            group=1000 + number,
            **at,
        )
        for function in range(8):
            below = {**at, "bus": number, "slot": 0}
            yield FUNCTION.format(
                name=f"0001_{number:02x}_00_{function}",
                path=f"{path}/0001:{number:02x}:00.{function}",
                parent=f"pci_{port}",
                driver="nvidia",
                code="0x030200",
                function=function,
                product=f"Card seat-{8 * number + function}",
                more="",
                group=2000 + 8 * number + function,
                **below,
            )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A service on the demo host with 1000 functions more."""
    from hypeman_libvirt.host.libvirt_host import open_host  # noqa: PLC0415
    from hypeman_libvirt.host.test_driver import demo_uri  # noqa: PLC0415

    demo = Path(demo_uri().removeprefix("test://")).read_text()
    large = tmp_path / "host.xml"
    large.write_text(demo.replace("</node>", "\n".join([*describe_functions(125), "</node>"])))
    with closing(open_host(f"test://{large}")) as host, world_on(host, tmp_path) as world:
        yield world


def test_a_thousand_functions_can_be_found(
    world: World, open_page: OpenPage, node_modules: Path
) -> None:
    page = open_page(reduced_motion="reduce")
    assert page.page.locator(".port[open]").count() == 0
    assert page.page.locator(".port").count() > 125
    assert page.complaints(node_modules) == []
    page.page.get_by_label("Search", exact=True).fill("card seat-77")
    expect(page.page.locator(".card")).to_have_count(11, timeout=PATIENT)
    expect(page.page.locator(".filters .count")).to_contain_text("11 of")
    world.service.register("0001:09:00.5", "seventy-seven", {}, OPERATOR)
    page.see("0001:09:00.5", "seventy-seven")
    page.page.get_by_label("Search", exact=True).fill("nothing of the kind")
    expect(page.page.locator(".nothing")).to_be_visible()
    page.page.get_by_role("button", name="Show all").click()
    page.page.locator("summary", has_text="0001:80:02.0").click()
    expect(page.card("0001:02:00.0")).to_be_visible()
    expect(page.page.locator(".card")).to_have_count(8)
