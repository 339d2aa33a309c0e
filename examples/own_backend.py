"""Sessions in a place of your own, here one file of SQLite. Run it, then open http://127.0.0.1:8080/"""

import sqlite3

import cherrypy
from counter import Counter  # the page of another example: no page knows where its sessions are

import sessions


class OwnStore(sessions.Store):
    capabilities = sessions.Capabilities(survives_restart=True, shared=True, locks_processes=False, counts=False,
        keeps="In SQLite.", sharing="One machine.", locking="In a process.", outage="That of the disk.")  # fmt: skip

    def __init__(self, *, database="sessions.sqlite"):  # a parameter is an option: tools.sessions.database
        super().__init__()
        self.db = sqlite3.connect(database, check_same_thread=False, isolation_level=None)
        self.db.execute("CREATE TABLE IF NOT EXISTS sessions (key PRIMARY KEY, line, deadline)")

    def load(self, key):
        row = self.db.execute("SELECT line FROM sessions WHERE key = ?", [key]).fetchone()
        return sessions.Record.unpack(key, row[0]) if row else None

    def save(self, key, record):
        self.db.execute("REPLACE INTO sessions VALUES (?, ?, ?)", [key, record.pack(key), record.deadline])

    def remove(self, key):
        self.db.execute("DELETE FROM sessions WHERE key = ?", [key])

    def purge(self, limit):  # what has expired, unless a request holds it
        over = self.db.execute("SELECT key FROM sessions WHERE deadline <= ? LIMIT ?", [self.clock(), limit])
        return sum(self.purge_one(key) for (key,) in over.fetchall())


class OwnSession(sessions.Session):
    store_class = OwnStore


if __name__ == "__main__":
    cherrypy.quickstart(Counter(), "/", {"/": {"tools.sessions.on": True, "tools.sessions.storage_class": OwnSession}})
