"""Child processes: none of them outlives the process that started it."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hypeman_lab.errors import LabError

# Tools for the administrator are not in every user's PATH, not even in every root's.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin:/usr/sbin:/sbin"])
_PATIENCE = 10.0  # seconds between asking a process to end and ending it


def find(tool: str) -> str | None:
    """Return the path of a tool, or None where it is not installed."""
    return shutil.which(tool, path=_PATH)


def run(*argv: str | Path, stdin: str = "", cwd: Path | None = None) -> str:
    """Run a tool to its end and return what it printed on stdout.

    Raises:
        LabError: it failed; the message holds the last lines of its stderr.
    """
    with child(argv, pipes=True, cwd=cwd) as process:
        out, err = process.communicate(stdin)
    if process.returncode:
        tail = "\n".join(err.strip().splitlines()[-20:])
        raise LabError(f"{argv[0]} failed with status {process.returncode}:\n{tail}")
    return out


@contextmanager
def child(
    argv: Sequence[str | Path],
    *,
    pipes: bool = False,
    cwd: Path | None = None,
    log: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[str]]:
    """Start a tool and end it with the block.

    The kernel ends it as well when the *thread* that started it is gone, even by SIGKILL. It has a
    session of its own: Ctrl-C reaches this process alone, which then ends its children in order.
    """
    wrapper = ["setpriv", "--pdeathsig", "TERM" if pipes else "KILL", "--"]
    with Path(log or os.devnull).open("w") as output:
        process = subprocess.Popen(
            [*wrapper, *map(str, argv)],
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else output,
            stderr=subprocess.PIPE if pipes else output,
            cwd=cwd,
            env={
                **os.environ,
                "PATH": _PATH,
                "LC_ALL": "C.UTF-8",
                "DEBIAN_FRONTEND": "noninteractive",
            },
            pass_fds=pass_fds,
            start_new_session=True,
            text=True,
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Ask the process and what it started to end, then insist."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
