"""The libvirt host: the only package that speaks to libvirt, and to the kernel beside it."""
