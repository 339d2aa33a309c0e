"""A form whose answer is remembered. Run it, then open http://127.0.0.1:8080/"""

import html

import cherrypy

import sessions

sessions.install()

FORM = """<form method="post" action="/keep">
<label>What is your name? <input name="name" maxlength="40" required></label> <button>Remember me</button>
"""


class Name:
    @cherrypy.expose
    def index(self):
        # Reading a session that does not exist yet makes none: a visitor who only looks gets no cookie.
        name = cherrypy.session.get("name")
        if name is None:
            return FORM
        # What a visitor typed is never put into a page as it is: it could be markup, or a script.
        return f"Hello, {html.escape(name)}. <form method='post' action='/forget'><button>Forget me</button></form>"

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def keep(self, name):
        cherrypy.session["name"] = name[:40]
        raise cherrypy.HTTPRedirect("/", 303)  # so that loading the page again does not send the form again

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def forget(self):
        sessions.expire()  # the whole session: what is stored, and the browser's cookie
        raise cherrypy.HTTPRedirect("/", 303)


if __name__ == "__main__":
    cherrypy.quickstart(Name(), "/", {"/": {"tools.sessions.on": True}})
