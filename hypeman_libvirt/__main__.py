"""``python -m hypeman_libvirt``: the command line."""

from __future__ import annotations

from hypeman_libvirt.cli.main import main

main()
