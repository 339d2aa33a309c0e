"""The laboratory: experiments with sessions, done for real by a site that runs on this machine.

Each experiment is a file or two here, with one template, and can be deleted alone, with its line in `Laboratory`. To
delete the whole laboratory, delete this folder and the line `mount.lab` of site.conf.

It is not for the public: an experiment takes threads, starts processes, stops servers. So it exists only on a site in
development (see app.py) and answers nobody but this machine's users.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cherrypy

from lab.expiry import Expiry
from lab.fixation import Fixation
from lab.logout_race import LogoutRace
from lab.outage import Outage
from lab.race import Race
from lab.restart import Restart
from web import csrf, rendering
from web.wiring import Site, Static

FOLDER = Path(__file__).resolve().parent


def mount(root: Any, site: Site) -> None:
    """Add the laboratory to the page tree of a site in development."""
    if site.profiles:
        root.lab = Laboratory(site.profiles)
    else:
        site.off.append("/lab")


def own_machine_only() -> None:
    """Refuse, with 403, whoever is not on this machine, and whoever calls it by a name that others may have made."""
    if not csrf.from_this_machine():
        raise cherrypy.HTTPError(403, "The laboratory is for this machine only. Open it as 127.0.0.1 or localhost.")


# After tools.proxy (at 30), for before it whoever comes through a proxy on this machine seems to be on this machine.
own_machine_only.priority = 35  # type: ignore[attr-defined]


class Laboratory:
    """GET /lab lists the experiments.

    Args:
        profiles: the session options of each profile, by its name, without `tools.sessions.`, as they would be here.
    """

    lesson = rendering.Lesson("/lab", "Lab", "Experiments: races, clocks, thieves, and a server that stops.", 70)
    _cp_config = {**rendering.NO_SLASH, "hooks.before_request_body.lab": own_machine_only}

    def __init__(self, profiles: Mapping[str, Mapping[str, Any]]) -> None:
        rendering.templates_from(FOLDER / "templates")
        self.static = Static(FOLDER / "static")
        # One line for each experiment:
        self.fixation = Fixation()
        self.expiry = Expiry()
        self.race = Race()
        self.logout_race = LogoutRace()
        self.restart = Restart(profiles)
        self.outage = Outage()

    @property
    def experiments(self) -> list[rendering.Lesson]:
        """The experiments, in the order in which they are mounted."""
        return [page.experiment for page in vars(self).values() if hasattr(page, "experiment")]

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> bytes:
        """List the experiments."""
        experiments = [
            {"path": rendering.url(one.path), "title": one.title, "about": one.about} for one in self.experiments
        ]
        return rendering.render("lab.html", {"experiments": experiments}, lesson=self.lesson, entries=self.experiments)
