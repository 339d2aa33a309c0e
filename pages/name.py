"""Lesson: a name asked for on one page and known on the next."""

from __future__ import annotations

import cherrypy

from pages import origin, site

_LONGEST = 10_000  # characters; generous for a name, and what a stranger may make us keep


class Name:
    """GET /name asks for a first and a last name; with both, by POST or in the query, they are kept: 303 /hello."""

    lesson = site.Lesson("/name", "Name", "A form fills the session on one page; another page greets you from it.")
    _cp_config = site.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET", "POST"])
    def index(self, first: object = None, last: object = None) -> bytes:
        """Show the form, or keep the names. A missing or endless one is 400, and what was typed stays in the form."""
        site.no_store()
        if cherrypy.request.method != "POST" and first is None and last is None:
            return self._form(known_name(), errors={})

        typed = {
            "first": site.text_field("first", first or "").strip(),
            "last": site.text_field("last", last or "").strip(),
        }
        wrong = {field: f"Please fill in your {field} name." for field, text in typed.items() if not text}
        wrong |= {
            field: f"Your {field} name has {len(text)} characters; {_LONGEST} is the most we keep."
            for field, text in typed.items()
            if len(text) > _LONGEST
        }
        if wrong:
            return self._form(typed, wrong)
        if cherrypy.request.method != "POST" and origin.from_another_site():
            return self._form(typed, errors={})  # a link elsewhere may fill the form in, and the visitor may send it
        cherrypy.session.update(typed)
        site.redirect("/hello")

    def _form(self, values: dict[str, str], errors: dict[str, str]) -> bytes:
        if errors and site.wants_json():
            raise cherrypy.HTTPError(400, " ".join(errors.values()))
        return site.render("name.html", values, lesson=self.lesson, status=400 if errors else 200, errors=errors)


class Hello:
    """GET /hello greets by the name that the session holds, and without one leads to the form."""

    _cp_config = site.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> bytes:
        """Greet the visitor. JSON has empty strings where no name is known."""
        site.no_store()
        return site.render("hello.html", known_name(), lesson=Name.lesson, reference=site.session_reference())


def known_name() -> dict[str, str]:
    """Return the first and the last name that the session holds; empty strings where it holds none."""
    return {field: cherrypy.session.get(field, "") for field in ("first", "last")}
