"""hypeman's PCI-passthrough device API for hosts that run libvirt."""

__version__ = "0.1.0"
