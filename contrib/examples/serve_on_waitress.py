"""The device API on waitress, in a few lines; any other WSGI server does as well.

JWT_SECRET=... HYPEMAN_LIBVIRT_LISTEN=127.0.0.1:8080 python serve_on_waitress.py

`hypeman-libvirt serve` does the same, and also stops gracefully, logs and listens on Unix sockets.
"""

from waitress import serve

from hypeman_libvirt import Settings, create_app
from hypeman_libvirt.bootstrap import count_threads

if __name__ == "__main__":
    settings = Settings()
    # Changes and followers of events hold a thread while they wait: leave the others some.
    serve(
        create_app(settings),
        listen=settings.listen,
        threads=count_threads(settings),
    )
