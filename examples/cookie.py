"""Cookies: what a browser keeps for a site. Run it, then open http://127.0.0.1:8080/"""

import cherrypy


class Cookie:
    @cherrypy.expose
    def index(self):
        # The browser sends every cookie of this site with every request. CherryPy has read them already.
        cookie = cherrypy.request.cookie.get("theme")
        theme = cookie.value if cookie else "no theme yet"

        return f"You like: {theme}. <a href='/set'>Set a cookie</a>, <a href='/delete'>delete it</a>.\n"

    @cherrypy.expose
    def set(self):
        # A cookie is set by the answer, in a header named Set-Cookie.
        cookie = cherrypy.response.cookie
        cookie["theme"] = "dark"

        # Without these the browser forgets it when it is closed, and sends it only to pages beside this one.
        cookie["theme"]["path"] = "/"
        cookie["theme"]["max-age"] = 3600  # seconds

        # No script of the page can read it, and no other site can have it sent along with a form.
        cookie["theme"]["httponly"] = True
        cookie["theme"]["samesite"] = "Lax"
        raise cherrypy.HTTPRedirect("/")

    @cherrypy.expose
    def delete(self):
        # There is no header to delete a cookie. Set it once more, as one that has no time left to live.
        cherrypy.response.cookie["theme"] = ""
        cherrypy.response.cookie["theme"]["path"] = "/"  # the same as when it was set, or it is another cookie
        cherrypy.response.cookie["theme"]["max-age"] = 0
        raise cherrypy.HTTPRedirect("/")


if __name__ == "__main__":
    cherrypy.quickstart(Cookie())
