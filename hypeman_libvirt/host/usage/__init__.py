"""What the host itself lives on: disks, mounts, network interfaces, the display."""
