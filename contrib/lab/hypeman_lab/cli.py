"""The two commands beside this package: build and run."""

import argparse
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from hypeman_lab import image
from hypeman_lab.errors import LabError
from hypeman_lab.lab import Lab
from hypeman_lab.needs import install_missing

_log = logging.getLogger("lab")

_HELP = """\
{uri}

  virsh -c {uri} nodedev-list --cap pci
  virsh -c {uri} nodedev-detach pci_0000_01_00_0

A line typed here runs inside the lab (`readlink /sys/bus/pci/devices/0000:01:00.0/driver`);
`hotplug` and `unplug` put a network card into the empty slot and pull it out again.
Ctrl-C ends the lab."""


def build() -> int:
    """Make the image if this recipe has none yet."""
    parser = _parser("Build the image of the lab, unless it is there.")
    return _guarded(lambda: _build(parser.parse_args().libvirt))


def run() -> int:
    """Boot the lab and serve until Ctrl-C."""
    parser = _parser("Boot the lab, building it first if need be, and serve until Ctrl-C.")
    parser.add_argument("--port", type=int, help="of libvirtd on 127.0.0.1 (default: a free one)")
    parser.add_argument(
        "--ids", default="", metavar="ADDRESS=VENDOR:DEVICE:CLASS,…", help="other PCI ids"
    )
    parser.add_argument("--kvm-inside", action="store_true", help="a slow /dev/kvm in the lab")
    parser.add_argument(
        "--no-iommu", dest="iommu", action="store_false", help="no IOMMU in the lab"
    )
    return _guarded(lambda: _run(Lab(**vars(parser.parse_args()))))


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--libvirt", choices=image.CHOICES, default="stable", help="whose libvirt")
    return parser


def _guarded(action: Callable[[], None]) -> int:
    """Turn errors into exit statuses; SIGTERM cleans up like Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        action()
    except LabError as error:
        _log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _build(libvirt: str) -> None:
    if packages := install_missing(libvirt):
        _log.info("installed %s", " ".join(packages))
    start = time.monotonic()
    if not image.directory(libvirt).exists():
        _log.info("building an image with libvirt from Debian %s …", libvirt)
    directory = image.build(libvirt)
    _log.info("%s (%.0f s)", directory, time.monotonic() - start)


def _run(lab: Lab) -> None:
    _build(lab.libvirt)
    start = time.monotonic()
    with lab:
        _log.info("booted in %.0f s\n", time.monotonic() - start)
        sys.stdout.write(_HELP.format(uri=lab.uri) + "\n")
        sys.stdout.flush()
        for line in sys.stdin:
            _obey(lab, line.strip())
            if not lab.alive():
                break
        lab.wait()
        raise LabError(f"the lab ended by itself:\n{lab.console(40)}")


def _obey(lab: Lab, line: str) -> None:
    try:
        sys.stdout.write(_answer(lab, line))
    except subprocess.TimeoutExpired as error:
        _log.warning("%s; it goes on running", error)
    except LabError as error:
        _log.warning("%s", error)
    sys.stdout.flush()


def _answer(lab: Lab, line: str) -> str:
    if line == "hotplug":
        return f"{lab.hotplug()}\n"
    if line == "unplug":
        lab.unplug()
        return ""
    result = lab.exec(line)
    return result.stdout + result.stderr
