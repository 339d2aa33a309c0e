"""Signing in and out. Run it, open http://127.0.0.1:8080/, and sign in as ada with the password `engine`."""

import argon2
import cherrypy

import sessions

sessions.install()
hasher = argon2.PasswordHasher()
ACCOUNTS = {"ada": hasher.hash("engine")}  # never the password itself: who reads this file must not be able to sign in
NOBODY = hasher.hash("nobody's")
FORM = "<form method='post' action='/login'><input name='user'> <input name='password' type='password'><button>Sign in"


class Site:
    @cherrypy.expose
    def index(self):
        user = cherrypy.session.user  # which is kept apart from the values of the session
        return f"Hello, {user}. <form method='post' action='/logout'><button>Sign out" if user else FORM

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def login(self, user, password):
        try:
            # A name that nobody has takes as long as one that somebody has: else the time would tell which exist.
            hasher.verify(ACCOUNTS.get(user, NOBODY), password)
        except argon2.exceptions.VerificationError:
            raise cherrypy.HTTPError(403, "That is not the right name and password.") from None
        cherrypy.session.sign_in(user)  # under a new id: who planted or saw the one before does not get in
        raise cherrypy.HTTPRedirect("/", 303)

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def logout(self):
        cherrypy.session.sign_out()  # removes the values too, and the old id is dead
        raise cherrypy.HTTPRedirect("/", 303)


if __name__ == "__main__":
    cherrypy.quickstart(Site(), "/", {"/": {"tools.sessions.on": True}})
