"""What somebody new does: stories of steps, each of which holds or does not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from hypeman_newcomer.container import Booted, NoContainerError, booted
from hypeman_newcomer.root import USER, Machine

Step = tuple[str, Callable[[], str]]
"""What somebody does, and a call that does it and returns why it did not hold, or nothing."""

_NAME: Final = "hypeman-libvirt"
_TAIL: Final = 1500
_QUICKSTART_FIRST: Final = ("quickstart", "check") * 2
_CHECK_FIRST: Final = ("check", "quickstart") * 2
_PASTED: Final = r"""
contrib/quickstart > out.txt 2> log.txt &
until grep -q 'devices delete' out.txt; do
    sleep 0.5
    kill -0 $! || { cat out.txt log.txt; exit 1; }
done
sed '1,/Try next/d' out.txt > next.txt
env -u HYPEMAN_API_KEY bash -e next.txt; status=$?
kill $!; wait; cat log.txt out.txt; exit $status
"""
_STRANGERS: Final = {
    "a server that says nothing": "import socket, time; "
    "server = socket.create_server(('127.0.0.1', 8080)); print('up', flush=True); time.sleep(999)",
    "a server that says 200 to everything": "import http.server as h\n"
    "class Yes(h.BaseHTTPRequestHandler):\n"
    "    def do_GET(self): self.send_response(200); self.end_headers()\n"
    "    do_POST = do_GET\n"
    "server = h.HTTPServer(('127.0.0.1', 8080), Yes); print('up', flush=True)\n"
    "server.serve_forever()",
}
_IN_USE: Final = "Port 8080 of 127.0.0.1 cannot be served on (Address already in use)"
_WITH_LIBVIRT: Final = "libvirt-daemon-system libvirt-daemon-driver-qemu polkitd"


_AWAIT: Final = "until grep -qs serving *.log; do sleep 0.2; done"
_OF_README: Final = f"""
from tests.docs.console import read_steps, sections
for step in read_steps(sections(open("README.md").read())["A session"]):
    print(step.command, "{_AWAIT}" if step.command.endswith("&") else "")
print("kill $(jobs -p); wait")
"""
_OF_MAN_PAGE: Final = rf"""
import gzip, re
page = gzip.open("/usr/share/man/man1/hypeman-libvirt.1.gz", "rt").read()
for line in re.findall(r"^\$ (.+)$", page, re.MULTILINE):
    line = line.replace("\-", "-").replace("\(aq", chr(39))
    line = line.replace("libvirt doctor", "libvirt doctor || test $? -le 2")  # of warnings, errors
    print(line, "{_AWAIT}" if line.endswith("&") else "")
print("kill $(jobs -p); wait")
"""


@dataclass(frozen=True)
class Story:
    """What somebody does, in order.

    Attributes:
        name: To choose it by.
        about: It, in a few words.
        tell: Yields its steps; the third argument is how contrib/check is called.
    """

    name: str
    about: str
    tell: Callable[[Machine, str], Iterator[Step]]

    def steps(self, machine: Machine, *, whole: bool) -> Iterator[Step]:
        """Return the steps."""
        return self.tell(machine, "contrib/check" if whole else "contrib/check --quick")


def _clone_and_run(where: str, user: str, *order: str) -> Callable[[Machine, str], Iterator[Step]]:
    def tell(machine: Machine, check: str) -> Iterator[Step]:
        yield _step(machine, f"git clone into {where}", _clone(where), user)
        for command in order:
            script = check if command == "check" else f"contrib/{command} --once"
            yield _step(machine, script, script, user, f"{where}/{_NAME}")

    return tell


def _ci(machine: Machine, check: str) -> Iterator[Step]:
    here = f"/srv/{_NAME}"
    yield _step(machine, "git clone into /srv", _clone("/srv"))
    without = "apt-get -qq -y purge --auto-remove 'python3*' && ! command -v python3"
    yield _step(machine, "(without Python)", without)
    yield _step(machine, script := check.replace("contrib/check", ".ci/run"), script, path=here)
    log = ".tox/log/*-mock.txt"
    everything = "command -v node npm systemd-analyze && test -x .tox/tools/usr/bin/promtool"
    yield _step(machine, "it has brought what its tests need", everything, path=here)
    yield _step(
        machine,
        "no test was left out for want of it",
        f"! grep -E 'SKIP.*(promtool|Node|polkit|systemd-analyze)' {log}",
        path=here,
    )


def _try_next(machine: Machine, _check: str) -> Iterator[Step]:
    here = f"/root/{_NAME}"
    yield _step(machine, "git clone into /root", _clone("/root"))
    yield _step(machine, "what quickstart says to try, without curl", _PASTED, path=here)
    yield _step(machine, "(curl)", "apt-get -qq -y install --no-install-recommends curl")
    yield _step(machine, "what quickstart says to try, with curl", _PASTED, path=here)
    yield _step(machine, "the README's session", _run_written(_OF_README), path=here)
    for stranger, server in _STRANGERS.items():
        yield _step(machine, f"quickstart beside {stranger}", _beside(server), path=here)
    ours = f".venv/bin/{_NAME} serve --auth off --registry /tmp/other.db"
    script = f"{ours} 2> log & until grep -q serving log; do sleep 0.2; done; {_refused()}"
    yield _step(machine, "quickstart beside another of ours", script, path=here)


def _package(machine: Machine, _check: str) -> Iterator[Step]:
    here = f"/root/{_NAME}"
    yield _step(machine, "git clone into /root", _clone("/root"))
    yield _step(machine, "quickstart --once", "contrib/quickstart --once", path=here)
    yield _step(
        machine,
        "build-deb, with what it says to install",
        "apt-get -qq -y install --no-install-recommends dpkg-dev && "
        "line=$(contrib/packaging/build-deb 2>&1 | grep -o 'apt-get install.*') && "
        "DEBIAN_FRONTEND=noninteractive ${line/install/-qq -y install} && "
        "contrib/packaging/build-deb > built.txt && grep 'apt-get install /' built.txt",
        path=here,
    )
    yield _step(
        machine,
        "(systemd and libvirt)",
        "DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "
        f"systemd-sysv dbus man-db curl openssl {_WITH_LIBVIRT}",
    )
    try:
        with booted(machine) as container:
            yield from _installed(container, here)
    except NoContainerError as error:
        reason = str(error)
        yield "boot it with systemd-nspawn", lambda: reason


def _installed(container: Booted, here: str) -> Iterator[Step]:
    def step(what: str, script: str, printed: str = "") -> Step:
        return what, lambda: _problem(*container.run(script), printed)

    at_root = f"cd {here} && contrib/quickstart --once --uri qemu:///system"
    owner = "stat -c %U /var/lib/libvirt/hypeman/registry.db"
    yield step("quickstart on qemu:///system, as root", f"{at_root}; {owner}", "^root$")
    install = f"cd {here} && $(grep -o 'apt-get install /.*' built.txt) -qq -y"
    yield step("the line that build-deb prints", install)
    yield step("the registry is the service's", owner, "^hypeman-libvirt$")
    alive = "sleep 12; systemctl show --property=ActiveState,NRestarts hypeman-libvirt"
    yield step("the service runs and was never restarted", alive, "NRestarts=0\nActiveState=active")
    yield step("GET /health", "curl --fail -sS http://127.0.0.1:8080/health", '"ok"')
    make_token = "hypeman-libvirt token --user-id ann"  # noqa: S105  # a command
    yield step("token finds the package's secret", make_token, r"^[\w-]+\.[\w-]+\.[\w-]+$")
    listing = f"HYPEMAN_API_KEY=$({make_token}) hypeman-libvirt devices list"
    yield step("devices list with it", listing)
    doctor = "hypeman-libvirt doctor; test $? -le 2"
    yield step("doctor has no traceback", doctor, r"^(?!.*Traceback)")
    yield step("the man page's examples", f"cd /root; {_run_written(_OF_MAN_PAGE)}")
    for file in (
        "bash-completion/completions/hypeman-libvirt",
        "zsh/vendor-completions/_hypeman-libvirt",
        "fish/vendor_completions.d/hypeman-libvirt.fish",
        "doc/hypeman-libvirt/ERRORS.md*",
        "doc/hypeman-libvirt/examples/observability/dashboard.json*",
        "doc/hypeman-libvirt/examples/observability/alerts.yaml",
    ):
        yield step(f"has {file}", f"test -s /usr/share/{file}")
    yield step("install it again", f"{install} --reinstall")
    yield step("it still runs", alive, "ActiveState=active")
    gone = "! test -e /etc/hypeman-libvirt/jwt-secret && ! test -e /var/lib/libvirt/hypeman"
    yield step("purge leaves nothing", f"apt-get -qq -y purge hypeman-libvirt && {gone}")


def _step(machine: Machine, what: str, script: str, user: str = "root", path: str = "/") -> Step:
    return f"{what}, as {user}", lambda: _problem(*machine.run(script, user, path))


def _problem(status: int, printed: str, expected: str = "") -> str:
    """Say why a step did not hold; nothing if it did."""
    if status == 0 and re.search(expected, printed, re.MULTILINE):
        return ""
    why = f"status {status}" if status else f"did not print {expected}"
    return f"{why}\n{printed[-_TAIL:]}"


def _clone(where: str) -> str:
    directory = f"{where}/{_NAME}"
    made = f"mkdir -p {where} && " if where.startswith("/srv") else ""
    return f"{made}git clone --quiet /srv/source.git {directory}"


def _beside(server: str) -> str:
    return f'coproc python3 -c "{server}"; read -r up <&"${{COPROC[0]}}"; {_refused()}'


def _refused() -> str:
    """Return a script that holds if quickstart says one sentence; it ends whom it ran beside."""
    return (
        "contrib/quickstart --once > out.txt 2>&1; status=$?; kill $!; wait; cat out.txt; "
        f"test $status = 1 && test $(wc -l < out.txt) = 1 && grep -qF '{_IN_USE}' out.txt"
    )


def _run_written(lines: str) -> str:
    """Return a script that runs the commands which a script of Python prints."""
    return f"python3 - > session.sh <<'END'\n{lines}\nEND\nbash -e session.sh"


ALL: Final = (
    Story("root", "from /root", _clone_and_run("/root", "root", *_QUICKSTART_FIRST)),
    Story("root-2", "the other order", _clone_and_run("/root", "root", *_CHECK_FIRST)),
    Story("srv", "from /srv", _clone_and_run("/srv", "root", *_QUICKSTART_FIRST)),
    Story(
        "user",
        "from a home directory, with sudo",
        _clone_and_run(f"/home/{USER}", USER, *_QUICKSTART_FIRST),
    ),
    Story(
        "user-2",
        "the other order",
        _clone_and_run(f"/home/{USER}", USER, *_CHECK_FIRST),
    ),
    Story("ci", ".ci/run, where there is not even Python", _ci),
    Story("next", "what quickstart and README say to do next", _try_next),
    Story("package", "the Debian package, in a booted container", _package),
)
