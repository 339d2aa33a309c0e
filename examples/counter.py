"""A session: what a site keeps for a visitor. Run it, then open http://127.0.0.1:8080/ and load the page again."""

import cherrypy

import sessions

# Replace CherryPy's session tool by the one of this package. From here on `cherrypy.session` is its.
sessions.install()


class Counter:
    @cherrypy.expose
    def index(self):
        # `cherrypy.session` is a dictionary. The first time it is used in a request, it takes the session id from the
        # visitor's cookie, locks that session, so that nobody else changes it meanwhile, and loads its values.
        count = cherrypy.session.get("count", 0) + 1

        # Writing changes the dictionary, and nothing else yet.
        cherrypy.session["count"] = count

        # When this method has returned, the session is saved and unlocked. A new visitor gets a cookie with the id of
        # the session; the count itself never leaves the server.
        return f"You have been here {count} times.\n"


if __name__ == "__main__":
    # Sessions are off unless a page, or as here the whole site, turns them on. These live in memory, for an hour:
    # add "tools.sessions.storage_type": "file" and "tools.sessions.storage_path": "visits" to keep them in files.
    cherrypy.quickstart(Counter(), "/", {"/": {"tools.sessions.on": True}})
