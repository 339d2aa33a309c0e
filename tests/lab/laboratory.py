"""The site with its laboratory in the process of the tests: they can look into its stores, whatever the profile."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cherrypy
import pytest

import app
import sessions
from sessions.codec import decode
from sessions.record import SESSION
from sessions.registry import registry
from tests.support.backends import environment_of
from tests.support.client import JSON, CheckedClient
from web import development
from web.server import listen
from web.settings import load_settings
from web.wiring import Site


@dataclass
class Laboratory:
    """A site that runs, and a visitor to it.

    Attributes:
        lab: the page /lab, with the experiments below it.
    """

    application: cherrypy.Application
    visitor: CheckedClient

    @property
    def lab(self) -> Any:
        return self.application.root.lab

    def store(self, cookie_name: str) -> sessions.Store:
        """The open store whose sessions have a cookie of this name."""
        [found] = [store for store in registry.stores(self.application) if store.cookie_name == cookie_name]
        return found

    def shown(self, path: str) -> Any:
        """What the page says in JSON."""
        answer = self.visitor.get(path, **JSON)
        assert answer.status == 200, answer.text
        return answer.json


def stored(store: sessions.Store, cookie: str) -> tuple[sessions.Record | None, dict[str, Any]]:
    """What a store has under the value of a cookie: the record, and the values in it."""
    found = store.find(cookie)
    assert found
    record = store.load(found[1])
    return record, decode(record.data) if record and record.kind == SESSION else {}


@contextmanager
def laboratory(profile: str, folder: Path, **options: Any) -> Iterator[Laboratory]:
    """Serve the site on a free port of this machine, with more options of [/]."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"STORAGE_PATH": str(folder), **environment_of(profile)}.items():
            patch.setenv(name, value)
        settings = load_settings(profile, {"/": options}, os.environ)
        application = app.build(Site(settings, development.session_options(None, os.environ)))
        application.log.screen = cherrypy.log.screen = False
        server = listen("127.0.0.1", 0)
        server.wsgi_app = application
        patch.setattr(cherrypy.server, "httpserver", server)
        server.prepare()
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield Laboratory(application, CheckedClient(server.url))
        finally:
            server.stop()
            thread.join()
            sessions.close_stores(application)
