"""libvirt's XML, parsed with lxml."""
