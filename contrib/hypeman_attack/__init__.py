"""Attacks a service as its clients can, while another client asks for ``/health``.

contrib/attack [--seconds 5] [--server granian] [--only PATTERN]

Each attack has a service of its own on the demo host. The table says how often it was tried, how
long ``/health`` took meanwhile, what memory the service needed, and how long SIGTERM took with the
attackers still connected. It asserts nothing: tests/server does, on both servers.
"""
