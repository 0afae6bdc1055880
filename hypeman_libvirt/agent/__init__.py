"""The agent of a fleet: today's service on one host, which reports to a hub."""
