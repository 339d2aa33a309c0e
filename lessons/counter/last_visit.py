"""A page that says when its visitor was here last: python last_visit.py, then http://127.0.0.1:8000."""

from __future__ import annotations

from datetime import UTC, datetime

import cherrypy

import sessions


class LastVisit:
    """GET / tells the time of the visit before, and keeps that of this one."""

    @cherrypy.expose
    def index(self) -> str:
        """Read the old time before the new one takes its place. With UTC no summer time can make it wrong."""
        last = cherrypy.session.get("last")
        cherrypy.session["last"] = datetime.now(UTC)
        return f"You were here on {last:%d %B %Y at %H:%M:%S} UTC.\n" if last else "I have not seen you before.\n"


if __name__ == "__main__":
    sessions.install()
    cherrypy.config.update({"server.socket_port": 8000})
    cherrypy.quickstart(LastVisit(), config={"/": {"tools.sessions.on": True}})
