"""A bare Debian root that reaches its packages as this machine does, and copies of it."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SUITE: Final = "bookworm"
USER: Final = "ann"
_MIRROR: Final = "http://deb.debian.org/debian"
_SECURITY: Final = "http://deb.debian.org/debian-security"
_PACKAGES: Final = "python3,git,ca-certificates,sudo"
_SETTINGS: Final = re.compile(
    r"(?i)(https?|no|all)_proxy|PIP_\w+|npm_config_\w+|SSL_CERT_\w+|NODE_EXTRA_CA_CERTS|\w+_CA_BUNDLE"
)
_NETWORK_SETTINGS: Final = re.compile(r"Acquire::(http|https|Check|Retries|ForceIPv)[\w:-]*.*")
_PIP: Final = ("/etc/pip.conf", "/etc/xdg/pip")
_TRUSTED: Final = "usr/local/share/ca-certificates"
_BEHIND: Final = r"""
for process in /proc/[0-9]*; do
    case ${process#/proc/} in 1|$BASHPID) continue ;; esac
    tr '\0' ' ' < "$process/cmdline"
done 2> /dev/null
"""


@dataclass(frozen=True)
class Machine:
    """A root to run commands in."""

    directory: Path

    def run(self, script: str, user: str = "root", path: str = "/") -> tuple[int, str]:
        """Run a script and return its status and what it printed.

        What it leaves running is a failure of its own, and ends here.

        Args:
            script: For bash.
            user: Who runs it.
            path: Where.
        """
        home = "/root" if user == "root" else f"/home/{user}"
        environment = {**network_environment(), "HOME": home, "USER": user, "PATH": _path(user)}
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        command = [
            *([] if user == "root" else as_user),
            *("env", "-i", *(f"{key}={value}" for key, value in environment.items())),
            *("bash", "-c", f"cd {shlex.quote(path)} || exit\n{script}"),
        ]
        inside = f"""
mount -t proc proc /proc
{shlex.join(command)}
status=$?
left=$({_BEHIND})
[ -z "$left" ] || {{ echo "LEFT BEHIND: $left"; exit 99; }}
exit $status
"""
        return run([*self._enter(), "bash", "-c", inside])

    def _enter(self) -> Sequence[str]:
        """Return the command that enters the root, with its own processes and mounts."""
        mounts = "; ".join(
            f"mount --rbind /{each} {shlex.quote(str(self.directory / each))}"
            for each in ("dev", "sys")
        )
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        return [*namespaces, "sh", "-c", f'{mounts}; exec chroot "$@"', "sh", str(self.directory)]


def build(directory: Path, checkout: Path) -> Path:
    """Build the root that all stories begin with, and put the checkout into it.

    Args:
        directory: Where to.
        checkout: A git repository; its committed state goes to ``/srv/source.git``.
    """
    mirror, security = find_mirrors(_apt_sources())
    _must(["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", SUITE, directory, mirror])
    (directory / "etc/apt/sources.list").write_text(
        f"deb {mirror} {SUITE} main\ndeb {mirror} {SUITE}-updates main\n"
        f"deb {security} {SUITE}-security main\n"
    )
    _take_over_network(directory)
    _must(["git", "clone", "--quiet", "--bare", checkout, directory / "srv/source.git"])
    machine, variables = Machine(directory), " ".join(network_environment())
    for script in (
        "update-ca-certificates",
        "apt-get -qq update",
        f"useradd --create-home --shell /bin/bash {USER}",
        f"echo '{USER} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{USER}",
        f"echo 'Defaults env_keep += \"{variables}\"' >> /etc/sudoers.d/{USER}",
        "git config --system --add safe.directory '*'",
    ):
        status, printed = machine.run(script)
        if status != 0:
            raise SystemExit(f"{script}: {printed}")
    return directory


@contextmanager
def copied(bare: Path, directory: Path) -> Iterator[Machine]:
    """Copy a root, and remove the copy at the end."""
    _must(["cp", "--archive", "--reflink=auto", bare, directory])
    try:
        yield Machine(directory)
    finally:
        shutil.rmtree(directory)


def find_mirrors(sources: str) -> tuple[str, str]:
    """Return Debian's and its security archive's URI, as this machine's apt has them."""
    uris = re.findall(r"https?://[^\s\]]+", re.sub(r"^\s*#.*", "", sources, flags=re.MULTILINE))
    debian = [each for each in uris if each.rstrip("/").endswith("/debian")]
    security = [each for each in uris if each.rstrip("/").endswith("debian-security")]
    return (debian or [_MIRROR])[0], (security or [_SECURITY])[0]


def network_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that tell programs how to reach registries."""
    return {key: value for key, value in environment.items() if _SETTINGS.fullmatch(key)}


def _apt_sources() -> str:
    directory = Path("/etc/apt")
    files = [directory / "sources.list", *sorted(directory.glob("sources.list.d/*"))]
    named = [each for each in files if each.suffix in {".list", ".sources"} and each.is_file()]
    return "\n".join(each.read_text() for each in named)


def _take_over_network(directory: Path) -> None:
    """Let apt, pip and npm inside reach what they reach on this machine."""
    _, dumped = run(["apt-config", "dump"])
    lines = [line for line in dumped.splitlines() if _NETWORK_SETTINGS.match(line)]
    (directory / "etc/apt/apt.conf.d/99newcomer").write_text("\n".join(lines) + "\n")
    for source in [*map(Path, _PIP), *Path("/etc/apt/auth.conf.d").glob("*")]:
        target = directory / source.relative_to("/")
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for certificate in Path("/", _TRUSTED).glob("*.crt"):
        (directory / _TRUSTED).mkdir(parents=True, exist_ok=True)
        shutil.copy(certificate, directory / _TRUSTED)
    shutil.copy("/etc/resolv.conf", directory / "etc/resolv.conf")
    (directory / "etc/hosts").write_text(f"127.0.0.1 localhost {platform.node()}\n")


def _path(user: str) -> str:
    everybody = "/usr/local/bin:/usr/bin:/bin"
    return f"/usr/local/sbin:/usr/sbin:/sbin:{everybody}" if user == "root" else everybody


def run(command: Sequence[str | Path]) -> tuple[int, str]:
    """Run a program and return its status and what it printed."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return done.returncode, done.stdout


def _must(command: Sequence[str | Path]) -> None:
    status, printed = run(command)
    if status != 0:
        raise SystemExit(f"{shlex.join(map(str, command))}: {printed[-2000:]}")
