"""``hypeman-libvirt doctor``: what is wrong with a host, and the command that mends it."""
