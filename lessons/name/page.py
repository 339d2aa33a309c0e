"""Lesson: a name asked for on one page and known on the next."""

from __future__ import annotations

import cherrypy

from web import csrf, rendering

_LONGEST = 10_000  # characters; generous for a name, and what a stranger may make us keep


class Name:
    """GET /name asks for a first and a last name; with both, by POST or in the query, they are kept: 303 /hello."""

    lesson = rendering.Lesson("/name", "Name", "A form fills the session on one page; another page greets you from it.")
    _cp_config = rendering.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET", "POST"])
    def index(self, first: object = None, last: object = None) -> bytes:
        """Show the form, or keep the names. A missing or endless one is 400, and what was typed stays in the form."""
        if cherrypy.request.method != "POST" and first is None and last is None:
            return self._form(known_name(), wrong={})
        name = {"first": stripped("first", first), "last": stripped("last", last)}
        wrong = mistakes(name)
        if wrong or csrf.from_another_site():  # a link elsewhere may fill the form in, and the visitor may send it
            return self._form(name, wrong)
        cherrypy.session.update(name)
        rendering.redirect("/hello")

    def _form(self, name: dict[str, str], wrong: dict[str, str]) -> bytes:
        rendering.no_store()
        if wrong and rendering.wants_json():
            raise cherrypy.HTTPError(400, " ".join(wrong.values()))
        return rendering.render("name/page.html", name, lesson=self.lesson, status=400 if wrong else 200, errors=wrong)


class Hello:
    """GET /hello greets by the name that the session holds, and without one leads to the form."""

    _cp_config = rendering.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> bytes:
        """Greet the visitor. JSON has empty strings where no name is known."""
        return Name.lesson.page("name/hello.html", **known_name())


def known_name() -> dict[str, str]:
    """Return the first and the last name that the session holds; empty strings where it holds none."""
    return {field: cherrypy.session.get(field, "") for field in ("first", "last")}


def stripped(field: str, value: object) -> str:
    """Return what was typed into a field, without spaces around it; nothing for a field that was not sent."""
    return rendering.text_field(field, value or "").strip()


def mistakes(name: dict[str, str]) -> dict[str, str]:
    """Return what is wrong with a name, by field."""
    wrong = {field: f"Please fill in your {field} name." for field, text in name.items() if not text}
    return wrong | {
        field: f"Your {field} name has {len(text)} characters; {_LONGEST} is the most we keep."
        for field, text in name.items()
        if len(text) > _LONGEST
    }
