"""The site under gunicorn instead of CherryPy's own server, behind a proxy: gunicorn --config deploy/gunicorn.conf.py

Any of these may be given on the command line instead. PROFILE, DATABASE_URL and so on work as they do with app.py.
"""

import os
import sys
import time
from typing import Any

wsgi_app = "app:create_app(config='deploy/behind-proxy.conf', production=True)"  # gunicorn needs a proxy in front
bind = "127.0.0.1:8080"
worker_class = "gthread"
workers = 2  # processes: the file, memcached, redis or postgresql profile, so that they share the sessions
threads = 10  # requests at a time in each
graceful_timeout = 10  # seconds that requests have to finish in after SIGTERM

if "gevent" in " ".join([worker_class, os.environ.get("GUNICORN_CMD_ARGS", ""), *sys.argv]):
    from gevent import monkey

    monkey.patch_all()  # before CherryPy is imported: what it keeps for each thread would be shared by all visitors

import cherrypy  # noqa: E402

import sessions  # noqa: E402
from web.server import show_what_matters  # noqa: E402

cherrypy.log.screen = False  # no line for each request, which would have its whole address
show_what_matters()


def pre_request(worker: object, request: Any) -> None:
    """Make one of several Cookie headers, as HTTP/2 does it (RFC 9113 section 8.2.3): gunicorn would put commas between
    them, and commas may be in values, too."""
    cookies = [value for name, value in request.headers if name == "COOKIE"]
    if len(cookies) > 1:
        others = [header for header in request.headers if header[0] != "COOKIE"]
        request.headers = [*others, ("COOKIE", "; ".join(cookies))]


def post_fork(server: Any, worker: Any) -> None:
    """Let a worker know whether it is one of the first, and of those that SIGTTIN has added (`wsgi.multiprocess`)."""
    worker.is_later = worker.age > worker.cfg.workers
    worker.cfg.set("workers", server.num_workers)


def post_worker_init(worker: Any) -> None:
    """Take what only one process may have, the snapshot of the ram profile, before this worker accepts a connection. It
    waits for the worker that it replaces, which finishes its requests first; so does one too many, until it is needed.
    """
    for _, store in sessions.open_stores(worker.wsgi):
        told = False
        while worker.alive and os.getppid() == worker.ppid:
            try:
                store.start()
                break
            except sessions.Unavailable as error:
                if not told:
                    worker.log.warning("This worker waits: %s", error)
                told = True
            worker.notify()
            time.sleep(0.05)


def worker_exit(server: Any, worker: Any) -> None:
    """Close connections; with the ram profile (and workers = 1), write its snapshot."""
    sessions.close_stores()
    failure = getattr(sys.exc_info()[1], "__context__", None)
    if getattr(worker, "is_later", False) and isinstance(failure, sessions.Unavailable):
        time.sleep(1)
        sys.exit(1)  # it is tried again; gunicorn's own status for a failed start ends the other workers, too
