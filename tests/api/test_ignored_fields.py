"""Fields of a body that nobody knows are ignored as hypeman does, and named."""

from __future__ import annotations

import pytest
import structlog
from structlog.testing import capture_logs

from hypeman_libvirt.rest.requests import describe_ignored
from tests.api.client import Api, code_of

GPU = "0000:a2:00.0"
KNOWN = ("pci_address", "name", "tags", "bind")


def test_the_answer_names_what_was_ignored_and_what_may_have_been_meant(api: Api) -> None:
    answer = api.post("/devices", {"pci_address": GPU, "nmae": "l4", "color": "red"})
    assert answer.status_code == 201
    assert answer.headers["X-Ignored-Fields"] == "color, nmae;nearest=name"
    assert answer.json["name"] == "pci-0000-a2-00-0"


def test_a_refusal_names_it_too(api: Api) -> None:
    answer = api.post("/devices", {"pci_adress": GPU})
    assert code_of(answer) == (400, "bad_request")
    assert answer.headers["X-Ignored-Fields"] == "pci_adress;nearest=pci_address"


def test_a_body_that_is_all_known_has_no_such_header(api: Api) -> None:
    answer = api.post("/devices", {"pci_address": GPU, "name": "l4"})
    assert "X-Ignored-Fields" not in answer.headers


def test_the_log_names_it(api: Api) -> None:
    with capture_logs() as lines:
        api.post("/devices", {"pci_address": GPU, "nmae": "l4"})
    structlog.reset_defaults()
    named = [line["fields"] for line in lines if "ignored" in line["event"]]
    assert named == ["nmae;nearest=name"]


@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("", '""'),
        ("a b", '"a b"'),
        ("üü", '"\\\\xfc\\\\xfc"'),
        ('q"\r\nSet-Cookie: x', '"q\\"\\\\r\\\\nSet-Cookie: x"'),
        ("x" * 5000, "x" * 40),
    ],
)
def test_whatever_a_field_is_called_fits_a_header(name: str, described: str) -> None:
    assert describe_ignored([name], KNOWN) == described


def test_ten_are_named_and_the_others_counted() -> None:
    named = describe_ignored([f"field{number}" for number in range(12)], KNOWN)
    assert named.endswith(", field9, more;count=2")
