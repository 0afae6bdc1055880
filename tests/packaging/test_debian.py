"""The Debian package and the proxies, as far as can be told without building them."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement

from hypeman_libvirt.settings import Settings

CONTRIB: Final = Path(__file__).parent.parent.parent / "contrib"
DEBIAN: Final = CONTRIB / "packaging" / "debian"
SHELL_SCRIPTS: Final = [
    CONTRIB / "packaging" / "build-deb",
    CONTRIB / "packaging" / "lock",
    *(DEBIAN / f"hypeman-libvirt.{kind}" for kind in ("postinst", "prerm", "postrm", "sh")),
    CONTRIB / "initramfs" / "hypeman-libvirt",
]
DEBIANS_NAMES: Final = {"libvirt-python": "python3-libvirt", "pyyaml": "python3-yaml"}
ONLY_TO_BUILD: Final = {"python3-dev", "python3-pip", "python3-venv"}


def list_python_packages(field: str) -> set[str]:
    """Name the Python packages in a field of debian/control."""
    control = (DEBIAN / "control").read_text()
    (value,) = re.findall(rf"^{field}:\n((?: .*\n)+)", control, re.MULTILINE)
    return set(re.findall(r"\bpython3-[a-z-]+", value))


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda script: script.name)
def test_the_shell_understands_the_scripts(script: Path) -> None:
    assert script.read_text().startswith("#!/bin/sh\n")
    subprocess.run(["/bin/sh", "-n", script], check=True)  # noqa: S603  # our own script


def test_a_library_that_is_there_when_building_is_there_when_running() -> None:
    depends = list_python_packages("Depends")
    assert depends == list_python_packages("Build-Depends") - ONLY_TO_BUILD
    assert "python3-libvirt" in depends


def read_bundled() -> dict[str, tuple[str, int]]:
    """Return version and number of hashes of each library that the package bundles."""
    text = (CONTRIB / "packaging" / "bundled.txt").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pinned = [re.fullmatch(r"([\w-]+)==([\w.]+)(?: ;[^-]+)?(.*)", line) for line in lines]
    return {
        each[1]: (each[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}", each[3])))
        for each in pinned
        if each
    }


def test_what_is_bundled_is_pinned_with_hashes() -> None:
    text = (CONTRIB / "packaging" / "bundled.txt").read_text()
    bundled = read_bundled()
    assert len(bundled) == len(re.findall(r"^[^\s#]", text, re.MULTILINE)) > 0
    assert all(hashes for _, hashes in bundled.values())
    assert "--require-hashes -r contrib/packaging/bundled.txt" in (DEBIAN / "rules").read_text()


def test_each_dependency_is_bundled_within_its_bounds_or_debians() -> None:
    """If this fails, run contrib/packaging/lock, or name the library in debian/control."""
    project = tomllib.loads((CONTRIB.parent / "pyproject.toml").read_text())["project"]
    bundled, debians = read_bundled(), list_python_packages("Depends")
    for each in map(Requirement, project["dependencies"]):
        if DEBIANS_NAMES.get(each.name, f"python3-{each.name}") in debians:
            assert each.name not in bundled
        else:
            assert bundled[each.name][0] in each.specifier


def test_what_debian_has_is_left_out_of_the_bundle() -> None:
    lock = (CONTRIB / "packaging" / "lock").read_text()
    left_out = lock.partition("for name in ")[2].partition(";")[0].split()
    named = {DEBIANS_NAMES.get(each, f"python3-{each}") for each in left_out}
    assert named == list_python_packages("Depends")


def test_only_purge_deletes_the_registry_and_the_secret() -> None:
    before, _, purge = (DEBIAN / "hypeman-libvirt.postrm").read_text().partition("= purge ]")
    for kept in ("/var/lib/libvirt/hypeman", "/etc/hypeman-libvirt/jwt-secret"):
        assert kept in purge
        assert kept not in before


@pytest.mark.parametrize(
    ("listed", "file"),
    [
        ("docs", "api/ERRORS.md"),
        ("docs", "contrib/docs/operators.md"),
        ("examples", "contrib/observability/dashboard.json"),
        ("examples", "contrib/observability/alerts.yaml"),
    ],
)
def test_it_has_what_an_operator_reads(listed: str, file: str) -> None:
    names = (DEBIAN / f"hypeman-libvirt.{listed}").read_text().split()
    assert any(Path(file).is_relative_to(name) for name in names)
    assert (CONTRIB.parent / file).is_file()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_it_has_completion_for_each_shell(shell: str) -> None:
    assert f"debian/completion.{shell} $(share)/{shell}" in (DEBIAN / "rules").read_text()


@pytest.mark.parametrize("name", ["nginx.conf", "Caddyfile"])
def test_the_proxies_find_the_service_where_it_listens_by_default(name: str) -> None:
    targets = re.findall(
        r"(?:proxy_pass http://|reverse_proxy )([\d.:]+)", (CONTRIB / "proxy" / name).read_text()
    )
    assert set(targets) == {Settings().listen}


def test_the_proxies_pass_events_on_at_once() -> None:
    nginx = (CONTRIB / "proxy" / "nginx.conf").read_text()
    events = nginx.partition("location = /devices/events {")[2].partition("}")[0]
    assert "proxy_buffering off;" in events
    assert "flush_interval -1" in (CONTRIB / "proxy" / "Caddyfile").read_text()


def test_nginx_waits_longer_than_an_operation_may_take() -> None:
    (seconds,) = re.findall(
        r"proxy_read_timeout (\d+)s", (CONTRIB / "proxy" / "nginx.conf").read_text()
    )
    assert float(seconds) > Settings().operation_timeout


def test_build_deb_prints_a_line_that_installs_what_it_lacks(tmp_path: Path) -> None:
    checks = tmp_path / "dpkg-checkbuilddeps"
    checks.write_text(
        "#!/bin/sh\n"
        "echo 'dpkg-checkbuilddeps: warning: cannot determine CC system type' >&2\n"
        "echo 'dpkg-checkbuilddeps: error: Unmet build dependencies: build-essential:native "
        "python3-libvirt (>= 9.0)' >&2\n"
        "exit 1\n"
    )
    checks.chmod(0o755)
    done = subprocess.run(  # noqa: S603  # our own script
        [CONTRIB / "packaging" / "build-deb"],
        env={"PATH": f"{tmp_path}:{os.defpath}", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    line = "    apt-get install --no-install-recommends build-essential python3-libvirt"
    assert done.stderr.splitlines()[-1] == line
    assert list(tmp_path.iterdir()) == [checks]
