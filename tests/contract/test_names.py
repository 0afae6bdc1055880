"""Every name and number of the fake against the binding itself."""

from __future__ import annotations

import inspect

import libvirt
import pytest

from tests import fake_libvirt

pytestmark = pytest.mark.testdriver

NUMBERS = [name for name in vars(fake_libvirt) if name.startswith("VIR_")]
CLASSES = ("virConnect", "virNodeDevice", "virDomain", "libvirtError")
FUNCTIONS = (
    "open",
    "getVersion",
    "registerErrorHandler",
    "virEventRegisterDefaultImpl",
    "virEventRunDefaultImpl",
)
METHODS = [
    (kind, name)
    for kind in CLASSES
    for name, value in vars(getattr(fake_libvirt, kind)).items()
    if inspect.isfunction(value) and not name.startswith("_")
]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_the_bindings(name: str) -> None:
    assert getattr(fake_libvirt, name) == getattr(libvirt, name)


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_a_method_takes_what_the_bindings_takes(kind: str, name: str) -> None:
    fake = inspect.signature(getattr(getattr(fake_libvirt, kind), name))
    real = inspect.signature(getattr(getattr(libvirt, kind), name))
    assert list(fake.parameters) == list(real.parameters)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_no_more_than_the_bindings(name: str) -> None:
    fake = inspect.signature(getattr(fake_libvirt, name))
    real = inspect.signature(getattr(libvirt, name))
    assert list(fake.parameters) == list(real.parameters)[: len(fake.parameters)]
