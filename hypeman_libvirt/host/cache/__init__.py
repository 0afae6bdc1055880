"""What libvirt's events invalidate, and libvirt's own files."""
