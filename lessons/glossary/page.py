"""The glossary: the field's words, and where a lesson teaches each."""

from __future__ import annotations

from dataclasses import dataclass

import cherrypy

from web import rendering


@dataclass(frozen=True)
class Term:
    """A word of the field.

    Attributes:
        name: as the lessons write it.
        path: the address of the page that teaches it. There it stands in bold, and its id is the name with hyphens.
        meaning: what it is, in one sentence.
    """

    name: str
    path: str
    meaning: str

    @property
    def taught(self) -> str:
        """The address of the place in the lesson."""
        return f"{self.path}#{self.name.replace(' ', '-')}"


TERMS = (
    Term("cookie", "/cookie/",
         "A name and a value that a site hands to a browser, and that the browser sends back with each request."),
    Term("session", "/counter",
         "The values that a site keeps of one visitor from one request to the next."),
    Term("session id", "/counter",
         "A long random text that names a session. Whoever has it has the session."),
    Term("session cookie", "/counter",
         "The cookie whose value is the session id."),
    Term("session store", "/counter",
         "Where the server keeps the sessions, each under its id: memory, files, a database."),
    Term("lock", "/counter",
         "What lets one request at a time use a session, so that no change gets lost."),
    Term("record", "/session",
         "What the session store has of one session: its values, when it began and when it ends."),
    Term("expiry", "/session",
         "The end of a session that nobody has ended: it was not used for too long, or it is too old."),
    Term("session fixation", "/login",
         "An attack: somebody gets a visitor to use a session id that he knows, and waits until they sign in."),
)  # fmt: skip


class Glossary:
    """GET /glossary explains each term of the lessons that are mounted."""

    lesson = rendering.Lesson("/glossary", "Glossary", "The field’s words, and where each is taught.", 0)
    _cp_config = rendering.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> bytes:
        """Show the terms in the order in which they are taught."""
        lessons = {term.name: rendering.lesson_at(term.path) for term in TERMS}
        terms = [
            {"term": term.name, "meaning": term.meaning, "taught": rendering.url(term.taught)}
            for term in TERMS
            if lessons[term.name]
        ]
        return rendering.render("glossary/page.html", {"terms": terms}, lessons=lessons)
