"""The libvirt host: the only room that speaks to libvirt, and to the kernel beside it."""
