"""The site under gunicorn instead of CherryPy's own server, behind a proxy: gunicorn --config deploy/gunicorn.conf.py

Any of these may be given on the command line instead. PROFILE, DATABASE_URL and so on work as they do with app.py.
"""

import cherrypy

import sessions
from server import show_what_matters

cherrypy.log.screen = False  # no line for each request, which would have its whole address
show_what_matters()

wsgi_app = "app:create_app(config='deploy/behind-proxy.conf', production=True)"  # gunicorn needs a proxy in front
bind = "127.0.0.1:8080"
worker_class = "gthread"
workers = 2  # processes: the file, memcached or postgresql profile, so that they share the sessions
threads = 10  # requests at a time in each
graceful_timeout = 10  # seconds that requests have to finish in after SIGTERM


def worker_exit(server: object, worker: object) -> None:
    """Close connections; with the ram profile (and workers = 1), write its snapshot."""
    sessions.close_stores()
