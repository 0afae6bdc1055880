"""Where the packages of the image come from: the mirrors that this machine already uses."""

import platform

from hypeman_lab.errors import LabError
from hypeman_lab.process import run

SUITE = "bookworm"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def lines(libvirt: str) -> list[str]:
    """Return one-line apt sources for the image; none means mmdebstrap's own default mirror.

    apt itself is asked, so both styles of sources files work, and on another release of Debian
    its mirrors are asked for the suite of the image.

    Raises:
        LabError: backports are wanted and there is no Debian mirror to ask for them.
    """
    mirrors = _debian_mirrors()
    if libvirt == "backports":
        if SUITE not in mirrors:
            raise LabError(f"no Debian mirror in apt's sources, so no {SUITE}-backports")
        mirrors[f"{SUITE}-backports"] = mirrors[SUITE]
    return [f"deb [signed-by={KEYRING}] {uri} {suite} main" for suite, uri in mirrors.items()]


def _debian_mirrors() -> dict[str, str]:
    """Map the image's suites to the mirrors in use; empty on a machine that is not Debian."""
    release = platform.freedesktop_os_release()
    if release["ID"] != "debian":
        return {}
    own = release.get("VERSION_CODENAME", SUITE)
    targets = run(
        "apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Component: main"
    )
    pairs = dict(line.split() for line in targets.splitlines())
    wanted = {f"{own}{part}": f"{SUITE}{part}" for part in ("", "-updates", "-security")}
    return {wanted[suite]: uri for suite, uri in pairs.items() if suite in wanted}
