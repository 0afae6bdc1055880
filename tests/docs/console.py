"""Reads console sessions out of documents, and runs them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FENCED: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK: Final = "=== end of step"
_SECONDS: Final = 600
"""Until a session that hangs is given up; no session is a matter of time."""
_WRITTEN: Final = re.compile(r"(localhost|127\.0\.0\.1):1?8080")
"""Where documents serve."""
_ANY_ID: Final = re.compile(r"\b[a-z][a-z0-9]{23}\b")
_ANY_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)")


@dataclass(frozen=True)
class Step:
    """A command of a session, and what it prints; ``…`` stands for anything."""

    command: str
    shown: str


def sections(markdown: str) -> Mapping[str, Sequence[tuple[str, str]]]:
    """Return the fenced blocks of each section that has any: language and content."""
    parts = re.split(r"^## (.+)\n", markdown, flags=re.MULTILINE)
    found = {
        title: _FENCED.findall(text) for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    return {title: blocks for title, blocks in found.items() if blocks}


def read_steps(blocks: Iterable[tuple[str, str]]) -> Iterator[Step]:
    """Read ``$ command`` and its output; a Python block is a step that prints nothing."""
    for language, content in blocks:
        if language == "python":
            yield Step(f"python - <<'END'\n{content}END", "")
            continue
        for text in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
            command, _, shown = re.sub(r"\\\n\s*", "", text).partition("\n")
            yield Step(command, shown)


def run(steps: Sequence[Step], port: int, directory: Path, environment: Mapping[str, str]) -> None:
    """Run a session in one shell, with the service on another port, and compare.

    Raises:
        AssertionError: A command failed or printed something else.
    """
    here = f"127.0.0.1:{port}"
    script = ['curl() { command curl -s "$@"; }', "trap 'kill $(jobs -p); wait' EXIT"]
    for step in steps:
        script.append(_WRITTEN.sub(here, step.command))
        if step.command.endswith("&"):
            script.append(f"curl --retry 60 --retry-connrefused -o /dev/null http://{here}/health")
        script.append(f"echo -e '\\n{_MARK}' $?")
    told = {"HYPEMAN_LIBVIRT_LISTEN": here, "HYPEMAN_BASE_URL": f"http://{here}"}
    printed = run_to_its_end("\n".join(script), directory, {**environment, **told})
    outputs = re.split(rf"\n{_MARK} (\d+)\n", printed)
    assert len(outputs) == 2 * len(steps) + 1, printed
    for step, output, status in zip(steps, outputs[::2], outputs[1::2], strict=False):
        assert status == "0", f"{step.command} ended with {status}: {output}"
        assert _fits(step.shown, output), f"{step.command} printed {output}not {step.shown}"


def run_to_its_end(
    script: str, directory: Path, environment: Mapping[str, str], seconds: float = _SECONDS
) -> str:
    """Run a script of bash and return what it prints; whatever it has started ends with it.

    Raises:
        subprocess.TimeoutExpired: It did not come to its end.
    """
    with subprocess.Popen(  # noqa: S603  # our own documents
        ["/bin/bash", "-c", script],
        env=environment,
        cwd=directory,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            return shell.communicate(timeout=seconds)[0]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)


def _fits(shown: str, output: str) -> bool:
    """Whether an output is what the document shows, but for ids, times and what it leaves out."""
    if not shown.strip():
        return True
    parts = _masked(shown).split("…")
    return bool(re.fullmatch(".*".join(re.escape(part.strip()) for part in parts), _masked(output)))


def _masked(text: str) -> str:
    masked = _ANY_TIME.sub("<time>", _ANY_ID.sub("<id>", text))
    return "\n".join(line.rstrip() for line in masked.strip().splitlines())
