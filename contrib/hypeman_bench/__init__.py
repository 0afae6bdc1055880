"""How fast the service answers, as ratios to a bare Falcon app in the same run.

Starts what it compares, loads the two in turn, several rounds, and prints medians with minimum and
maximum, each beside its target:

    .venv/bin/python contrib/bench            # everything, about eight minutes
    .venv/bin/python contrib/bench --quick    # one short round of each, to see that it works
    .venv/bin/python contrib/bench --only "GET /devices/{id}" --server granian

Ours runs on granian and on waitress, a line each. F is a Falcon app on waitress that answers one
constant Device. wrk loads where it is installed, else threads of this process do. Hosts are
libvirt's test driver on generated files, the local libvirtd where one answers at qemu:///system,
and the fake libvirt of the tests, which alone can hang.
"""
