"""What README, papers and man page show is what happens, on the demo host."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.docs.console import Step, read_steps, run, run_to_its_end, sections

ROOT: Final = Path(__file__).parent.parent.parent
MAN: Final = ROOT / "contrib" / "packaging" / "hypeman-libvirt.1"
README: Final = ROOT / "README.md"
HTTP: Final = ROOT / "contrib" / "docs" / "http-session.md"
VGPUS: Final = ROOT / "contrib" / "docs" / "vgpus.md"
RUN: Final = {README: {"A session"}, HTTP: {"A session"}, VGPUS: {"A session"}}
NOT_RUN: Final = {
    "Two commands": "they install packages; one of them is what runs this",
    "On a libvirt host": "it needs a libvirt daemon, and root to install; contrib/newcomer does it",
    "On real vfio-pci": "it needs the virtual machine; tests/lab does the same there",
    "With virsh beside it": "it needs the virtual machine; tests/lab does the same there",
    "A fleet on one machine": "it needs PostgreSQL; tests/fleet/test_demo.py does it",
    "A session with a fleet": "likewise",
    "The picture": "it is a picture",
}


@pytest.fixture
def run_session(tmp_path: Path) -> Callable[[Sequence[Step]], None]:
    missing = [name for name in ("bash", "curl", "openssl") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} on this machine")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "HYPEMAN_LIBVIRT_REGISTRY": str(tmp_path / "registry.db"),
    }
    return lambda steps: run(steps, port, tmp_path, environment)


@pytest.mark.parametrize(
    "paper", [README, *sorted(HTTP.parent.glob("*.md"))], ids=lambda paper: paper.stem
)
def test_every_section_with_commands_is_run_or_says_why_not(paper: Path) -> None:
    assert sections(paper.read_text()).keys() - NOT_RUN.keys() == RUN.get(paper, set())


def test_every_reason_is_needed() -> None:
    papers = [README, *HTTP.parent.glob("*.md")]
    assert NOT_RUN.keys() <= {title for paper in papers for title in sections(paper.read_text())}


@pytest.mark.parametrize(
    "paper",
    [README, ROOT / "CONTRIBUTING.md", *sorted(HTTP.parent.rglob("*.md"))],
    ids=lambda paper: paper.stem,
)
def test_links_lead_somewhere(paper: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", paper.read_text())
    assert [each for each in targets if not (paper.parent / each).exists()] == []


@pytest.mark.testdriver
@pytest.mark.parametrize("paper", RUN, ids=lambda paper: paper.stem)
def test_the_session_happens(
    paper: Path, run_session: Callable[[Sequence[Step]], None], tmp_path: Path
) -> None:
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])  # quickstart leaves one
    (title,) = RUN[paper]
    steps = list(read_steps(sections(paper.read_text())[title]))
    assert len(steps) > 10
    run_session(steps)


@pytest.mark.testdriver
def test_the_examples_of_the_man_page_happen(
    run_session: Callable[[Sequence[Step]], None],
) -> None:
    lines = re.findall(r"^\$ .+$", MAN.read_text(), re.MULTILINE)
    plain = "\n".join(lines).replace("\\-", "-").replace("\\(aq", "'")
    steps = list(read_steps([("", plain)]))
    assert len(steps) > 10
    run_session(steps)


def test_the_man_page_is_what_the_commands_say() -> None:
    render = runpy.run_path(str(MAN.with_name("make-man")))["render"]
    assert MAN.read_text() == render(), "run make-man, as it says"


def test_a_session_that_does_not_happen_is_found(
    run_session: Callable[[Sequence[Step]], None],
) -> None:
    run_session([Step("echo one two", "one …\n")])
    with pytest.raises(AssertionError, match="printed"):
        run_session([Step("echo one two", "one three\n")])
    with pytest.raises(AssertionError, match="ended with 1"):
        run_session([Step("false", "")])


def test_a_session_leaves_no_process_behind(tmp_path: Path) -> None:
    pid = run_to_its_end("sleep 1000 > /dev/null & echo $!", tmp_path, os.environ).strip()
    while is_alive(pid):
        time.sleep(0.01)


def is_alive(pid: str) -> bool:
    """Whether the process runs; one that nobody has waited for does not."""
    try:
        return "State:\tZ" not in Path("/proc", pid, "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
