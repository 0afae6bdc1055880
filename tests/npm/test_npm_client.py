"""hypeman's npm client against the started service: what it gets, and whether its types fit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.api.client import bearer, token

pytestmark = [pytest.mark.npm, pytest.mark.testdriver]

SESSION = Path(__file__).with_name("session.test.mjs")
TYPED = """import Hypeman from '@onkernel/hypeman';
type Answer<T> = Omit<T, 'get' | 'reclaimMemory'>;
export const resources: Answer<Hypeman.Resources> = {resources};
export const capabilities: Answer<Hypeman.Capabilities> = {capabilities};
"""
"""The client calls an answer and the class that asks for it the same, so that the types merge."""


@pytest.fixture
def directory(node_modules: Path, tmp_path: Path) -> Path:
    """A directory of the test's own, in which the client is found."""
    (tmp_path / "node_modules").symlink_to(node_modules)
    return tmp_path


def run(
    directory: Path, *command: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  # Node and the compiler that is installed here
        command,
        cwd=directory,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def type_errors(directory: Path, resources: str, capabilities: str) -> str:
    """Return what the compiler says of answers that claim to be of the client's types."""
    source = TYPED.replace("{resources}", resources).replace("{capabilities}", capabilities)
    (directory / "answers.ts").write_text(source)
    strict = ("--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--lib", "es2022")
    return run(directory, directory / "node_modules" / ".bin" / "tsc", *strict, "answers.ts").stdout


def ask(url: str, path: str) -> str:
    request = urllib.request.Request(url + path, headers=bearer())  # noqa: S310  # loopback
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        text: str = answer.read().decode()
    return text


def test_a_session(url: str, directory: Path) -> None:
    node = shutil.which("node") or ""
    shutil.copy(SESSION, directory)
    done = run(
        directory,
        node,
        "--test",
        "--test-reporter=tap",
        SESSION.name,
        HYPEMAN_BASE_URL=url,
        HYPEMAN_API_KEY=token(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# pass 6" in done.stdout


def read_resources(url: str) -> str:
    """Return the answer without the fields that are ours."""
    resources = json.loads(ask(url, "/resources"))
    assert resources.pop("instances")
    assert resources["gpu"].pop("allocatable_slots")
    assert resources["gpu"].pop("quarantined_slots") == 0
    return json.dumps(resources)


def test_the_answers_are_of_its_types_with_few_fields_of_ours(url: str, directory: Path) -> None:
    assert type_errors(directory, read_resources(url), ask(url, "/capabilities")) == ""


def test_a_field_too_many_and_one_too_few_would_be_noticed(url: str, directory: Path) -> None:
    resources, capabilities = read_resources(url), ask(url, "/capabilities")
    more = resources.replace('"gpu"', '"surprise":1,"gpu"', 1)
    fewer = capabilities.replace('"os":"linux",', "")
    said = type_errors(directory, more, fewer)
    assert "'\"surprise\"' does not exist" in said
    assert "Property 'os' is missing" in said
