"""The WSGI server, its connections and its log."""
