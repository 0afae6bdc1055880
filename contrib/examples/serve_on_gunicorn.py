"""The device API under gunicorn with several workers, for hosts that run gunicorn anyway.

JWT_SECRET=... HYPEMAN_LIBVIRT_LISTEN=127.0.0.1:8080 gunicorn --config serve_on_gunicorn.py

Each worker opens libvirt and the registry for itself, after the fork: a connection to libvirt does
not survive one. What keeps two operations off one device are locks on files, so it does not matter
which worker answers, nor that one is killed. Limits hold for each worker, and so do the metrics,
unless PROMETHEUS_MULTIPROC_DIR names an empty directory where the workers add theirs up.
"""

import sys
from wsgiref.types import WSGIApplication

from hypeman_libvirt import Settings, create_app
from hypeman_libvirt.bootstrap import count_threads
from hypeman_libvirt.server import logs

settings = Settings()

# What gunicorn reads: https://docs.gunicorn.org/en/stable/settings.html
wsgi_app = f"{__name__}:create()"
bind = settings.listen
workers = 2
worker_class = "gthread"
threads = count_threads(settings)
# An operation may take its time; a thread that waits does not keep a worker from its heartbeat.
graceful_timeout = int(settings.operation_timeout) + 35
preload_app = False


def create() -> WSGIApplication:
    """Build the app of one worker."""
    logs.configure(sys.stderr)
    return create_app(settings)
