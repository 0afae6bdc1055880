"""A fleet on one machine: PostgreSQL, a hub and agents; contrib/fleet/demo is its command line."""
