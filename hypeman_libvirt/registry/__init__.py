"""Where names of devices are stored: SQL, because libvirt's metadata has no compare-and-swap."""

from hypeman_libvirt.registry.errors import RegistryOpenError
from hypeman_libvirt.registry.sql import SqlRegistry

__all__ = ["RegistryOpenError", "SqlRegistry"]
