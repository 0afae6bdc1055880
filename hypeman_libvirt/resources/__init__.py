"""What the host has, what domains took of it, and what it can do."""
