"""The hub's HTTP: the device API over all hosts, hosts, claims, and what agents report."""
