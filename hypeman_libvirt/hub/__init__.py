"""One API over many hosts: what agents report is listed, what changes something is forwarded."""
