"""What a user would take instead: Flask-Session and Django, on the same stores, in this same process."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from . import apps
from .client import PROCESSOR, Client, take_turns
from .cost import Candidate, candidates, clock_of, compare, print_table
from .report import Report
from .sizes import Sizes
from .stage import Stage

HOW = """Microseconds a request beyond the same framework's page without a session: WSGI calls in this process, in
turns, medians. Processor time; where a server works on the request, too (*), time on the wall. Flask-Session and Django
do not lock: of two requests at a time on one session, one loses what it wrote."""

OURS = ["file", "cookie", "memcached", "postgresql"]
_PACKAGES = ["flask", "flask_session", "cachelib", "django", "memcache"]
_ENGINES = {
    "Django file": {"SESSION_ENGINE": "django.contrib.sessions.backends.file"},
    "Django signed cookie": {"SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies"},
    "Django memcached": {"SESSION_ENGINE": "django.contrib.sessions.backends.cache"},
    "Django postgresql": {"SESSION_ENGINE": "django.contrib.sessions.backends.db"},
}


_TARGETS = [
    (("file", "read"), ("Django file", "read"), 0.6),
    (("memcached", "write"), ("Flask-Session memcached", "write"), 1.3),
    (("memcached", "write"), ("Flask-Session python-memcached", "write"), 1.3),
    (("postgresql", "write"), ("Django postgresql, connection kept", "write"), 0.4),
    (("cookie", "write"), ("Django signed cookie", "write"), 1.2),
]


class Missing(RuntimeError):
    """A framework to compare with is not installed; the message says what to do."""


def run(report: Report, stage: Stage, sizes: Sizes) -> None:
    """Measure and print the section."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise Missing(f"{', '.join(missing)} cannot be imported: make bench-peers installs what it needs")
    report.section("Cost of a session, beside other frameworks", HOW)
    apps.install()
    plain = {name: Client(app, "/plain") for name, app in (
        ("", apps.plain()), ("Flask-Session", _flask_app()), ("Django", _django_app(stage, MIDDLEWARE=[])),
    )}  # fmt: skip
    clients = candidates(stage, OURS) | _of(_flask_apps(stage)) | _of(_django_apps(stage))
    take_turns([Client(apps.plain(), "/plain"), *plain.values(), *clients.values()], sizes.rounds, sizes.batch)
    cost = {}
    for name, client in clients.items():
        base = next(one for framework, one in reversed(plain.items()) if name[0].startswith(framework))
        cost[name] = client.beyond(base, clock_of(name[0])) * 1e6
    print_table(report, cost)
    pages = ", ".join(f"{name or 'CherryPy'} {one.seconds(PROCESSOR) * 1e6:.0f} us" for name, one in plain.items())
    report.line(f"  (the page itself: {pages})\n")
    for ours, theirs, limit in _TARGETS:
        compare(report, cost, ours, theirs, limit)


def _of(made: dict[str, Any]) -> dict[Candidate, Client]:
    return {(name, page): Client(app, f"/{page}") for name, app in made.items() for page in apps.PAGES}


def _flask_apps(stage: Stage) -> dict[str, Any]:
    from cachelib.file import FileSystemCache
    from pymemcache import Client as Memcached

    files = FileSystemCache(str(stage.new_folder("flask")))
    # Without no_delay each of its commands would wait 40 ms for an acknowledgement; ours has it, too.
    client = Memcached(("127.0.0.1", stage.memcached.port), no_delay=True)
    python_memcached = importlib.import_module("memcache").Client([stage.memcached.address])
    return {
        "Flask-Session file": _flask_app(SESSION_TYPE="cachelib", SESSION_CACHELIB=files),
        "Flask-Session memcached": _flask_app(SESSION_TYPE="memcached", SESSION_MEMCACHED=client),
        # The driver that Flask-Session takes by itself, of those written in Python.
        "Flask-Session python-memcached": _flask_app(SESSION_TYPE="memcached", SESSION_MEMCACHED=python_memcached),
    }


def _flask_app(**config: Any) -> Any:
    from flask import Flask, session
    from flask_session import Session

    app = Flask(__name__)
    app.config.update(config)
    if config:
        Session(app)

    @app.get("/plain")
    @app.get("/untouched")
    def plain() -> str:
        return "hello"

    @app.get("/read")
    def read() -> str:
        return str(session.get("count"))

    @app.get("/write")
    def write() -> str:
        session["count"] = session.get("count", 0) + 1
        return str(session["count"])

    return app


def _django_apps(stage: Stage) -> dict[str, Any]:
    with_sessions = ["django.contrib.sessions.middleware.SessionMiddleware"]
    made = {name: _django_app(stage, MIDDLEWARE=with_sessions, **own) for name, own in _ENGINES.items()}
    made["Django postgresql, connection kept"] = _KeptConnection(made["Django postgresql"])
    return made


class _KeptConnection:
    """Django with CONN_MAX_AGE = None. By default it opens a connection for each request."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(self, *args: Any) -> Any:
        from django.db import connection

        connection.close_at, connection.settings_dict["CONN_MAX_AGE"] = None, None
        try:
            answer = self._app(*args)
            answer.close()  # here, while the setting stands; it has sent its signals then
        finally:
            # The same connection is there for those who do not keep it: they find it too old at their next request.
            connection.close_at, connection.settings_dict["CONN_MAX_AGE"] = 0.0, 0
        return _Sent(answer)


class _Sent(list[bytes]):
    """The body of an answer that is closed already."""

    def close(self) -> None:
        """Nothing is left to do."""


def _django_app(stage: Stage, **settings: Any) -> Any:
    """A WSGI application of Django with these settings, which it reads when it is made."""
    from django.conf import settings as current

    if not current.configured:
        _configure_django(stage)
    for name, value in settings.items():
        setattr(current, name, value)
    return importlib.import_module("django.core.handlers.wsgi").WSGIHandler()


def _configure_django(stage: Stage) -> None:
    """Django's settings are those of the process, and so is its table of addresses."""
    import django
    from django.conf import settings
    from django.core.management import call_command
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    def plain(request: HttpRequest) -> HttpResponse:
        return HttpResponse("hello")

    def read(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(request.session.get("count")))

    def write(request: HttpRequest) -> HttpResponse:
        request.session["count"] = request.session.get("count", 0) + 1
        return HttpResponse(str(request.session["count"]))

    pages = {"plain": plain, "untouched": plain, "read": read, "write": write}
    settings.configure(
        SECRET_KEY="what is measured here is no secret",  # noqa: S106 -- it protects nothing
        ALLOWED_HOSTS=["site"], INSTALLED_APPS=["django.contrib.sessions"], USE_TZ=True,
        ROOT_URLCONF=tuple(path(name, page) for name, page in pages.items()),
        SESSION_FILE_PATH=str(stage.new_folder("django")),
        DATABASES={"default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": "sessions", "USER": "sessions",
            "HOST": "127.0.0.1", "PORT": stage.postgresql.port,
        }},
        CACHES={"default": {
            "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
            "LOCATION": stage.memcached.address, "OPTIONS": {"no_delay": True},
        }},
    )  # fmt: skip
    django.setup()
    call_command("migrate", verbosity=0)
