#!/bin/sh
# -I: neither the caller's PYTHONPATH nor the directory it stands in counts.
exec /usr/lib/hypeman-libvirt/bin/python3 -I /usr/lib/hypeman-libvirt/bin/hypeman-libvirt "$@"
