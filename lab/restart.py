"""Experiment: the learner predicts what a count survives and who shares it; second sites of this one show it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from http.client import HTTPException
from typing import Any

import cherrypy

import sessions
from lab.instances import Instance, InstanceError, Instances, Place
from lab.turn import own_turn
from lab.visitor import Answer, Visitor
from sessions.registry import session_class
from web import rendering
from web.availability import Availability

BEFORE = 3  # visits before the first restart
IN_TURN = 4  # visits to two instances, one after the other
AT_ONCE = 10  # visits to both at the same time
VISITS = BEFORE + 1 + IN_TURN + AT_ONCE + 1 + 1

QUESTIONS = {
    "restart": "Is the count still there after a restart?",
    "secret": "And after a restart with another secret?",
    "turns": "Do two instances, asked in turn, count on together?",
    "at_once": f"Do two instances, asked {AT_ONCE} times at once, count every visit?",
}


@dataclass(frozen=True)
class Finding:
    """What became of one question.

    Attributes:
        predicted, declared, found: the answer of the learner, of the backend's capabilities, and of the experiment.
        expected, counts: the counts if the answer is yes, and those that came.
    """

    question: str
    predicted: bool
    declared: bool
    expected: list[int]
    counts: list[int]

    @property
    def found(self) -> bool:
        return self.counts == self.expected

    def told(self) -> dict[str, Any]:
        """All of it."""
        return {**asdict(self), "found": self.found, "right": self.found == self.predicted}


class Guest:
    """Somebody who visits one instance after the other with one cookie jar: cookies do not know ports.

    Attributes:
        count: what the last visit was told.
    """

    def __init__(self) -> None:
        self._jar = Visitor("").jar
        self.count = 0

    def _ask(self, instance: Instance, method: str, path: str, form: Mapping[str, str] | None = None) -> Answer:
        visitor = Visitor(instance.url)
        visitor.jar = dict(self._jar)
        try:
            answer = visitor.ask(method, path, form)
        except (OSError, HTTPException) as error:
            raise InstanceError("A second site did not answer.") from error
        if answer.status >= 400:
            raise InstanceError(f"A second site answered {path} with the status {answer.status}.")
        if answer.set_cookie:
            self._jar = visitor.jar
        return answer

    def visit(self, instances: Iterable[Instance]) -> list[int]:
        """Visit each in turn; the counts that they tell."""
        counts = []
        for instance in instances:
            self.count = int(self._ask(instance, "GET", "/counter").told["count"])
            counts.append(self.count)
        return counts

    def visit_at_once(self, instances: list[Instance]) -> None:
        """Visit all at the same time. Of the cookies that come back, the last one stays."""
        with ThreadPoolExecutor(len(instances)) as pool:
            list(pool.map(lambda instance: self._ask(instance, "GET", "/counter"), instances))

    def leave(self, instance: Instance, cookie: str) -> None:
        """End the session: no store shall keep what an experiment has left."""
        self._ask(instance, "POST", "/cookie/delete", {"name": cookie})


def experiment(instances: Instances, place: Place, told: Mapping[str, bool]) -> list[Finding]:
    """Do it all: start, visit, stop, start again, start two, start with another secret.

    Args:
        told: the predictions by question.

    Raises:
        InstanceError: a second site did not start or answer.
    """
    guest, secret = Guest(), secrets.token_urlsafe(48)
    first = instances.start(place, secret)
    guest.visit([first] * BEFORE)
    instances.stop(first)

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: instances.start(place, secret), range(2))
    counts = {"restart": guest.visit([one])}
    expected = {"restart": [BEFORE + 1]}
    expected["turns"] = [guest.count + n for n in range(1, IN_TURN + 1)]
    counts["turns"] = guest.visit([two, one] * (IN_TURN // 2))
    expected["at_once"] = [guest.count + AT_ONCE + 1]
    guest.visit_at_once([one, two] * (AT_ONCE // 2))
    counts["at_once"] = guest.visit([one])
    instances.stop(one)
    instances.stop(two)

    last = instances.start(place, secrets.token_urlsafe(48))
    expected["secret"] = [guest.count + 1]
    counts["secret"] = guest.visit([last])
    guest.leave(last, place.options.get("name", "session_id"))
    capabilities = capabilities_of(place.options)
    declared = {
        "restart": capabilities.survives_restart,
        "secret": capabilities.survives_restart and "secret" not in place.options,
        "turns": capabilities.shared,
        "at_once": capabilities.shared and capabilities.locks_processes,
    }
    return [Finding(name, told[name], declared[name], expected[name], counts[name]) for name in QUESTIONS]


def capabilities_of(options: Mapping[str, Any]) -> sessions.Capabilities:
    """Return what the backend of a profile declares of itself."""
    return session_class(options).store_class.capabilities


class Restart:
    """GET /lab/restart asks for a prediction; POST does the experiment.

    Args:
        profiles: the session options of each profile, by its name.
    """

    experiment = rendering.Lesson(
        "/lab/restart", "A restart", "Stop the site, start it again, start it twice. Who still knows you?"
    )

    def __init__(self, profiles: Mapping[str, Mapping[str, Any]]) -> None:
        self._profiles = profiles
        self._availability = Availability(profiles)
        self._instances = Instances()

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET", "POST"])
    def index(self, profile: object = "", **told: object) -> bytes:
        """Show the form, and what came of the experiment if it was sent."""
        if cherrypy.request.method != "POST":
            return self._show({}, cherrypy.request.config["profile"], {})
        name = rendering.text_field("profile", profile)
        if name not in self._profiles:
            raise cherrypy.HTTPError(400, f"Choose a profile: {', '.join(self._profiles)}.")
        if unknown := set(told) - set(QUESTIONS):
            raise cherrypy.HTTPError(400, f"There is no question '{min(unknown)[:40]}' here.")
        predictions = {question: told.get(question) == "yes" for question in QUESTIONS}
        began = time.monotonic()
        try:
            with own_turn(), self._instances.place(name, self._profiles[name]) as place:
                found = experiment(self._instances, place, predictions)
        except InstanceError as error:
            raise cherrypy.HTTPError(503, str(error)) from error
        findings = [finding.told() for finding in found]
        return self._show(
            {"profile": name, "findings": findings, "seconds": round(time.monotonic() - began, 1)}, name, predictions
        )

    def _show(self, data: dict[str, Any], chosen: str, predictions: Mapping[str, bool]) -> bytes:
        rendering.no_store()
        running = cherrypy.request.config["profile"]
        states = {} if rendering.wants_json() else self._availability.states(running)
        keeps = {name: capabilities_of(options).keeps for name, options in self._profiles.items()}
        return rendering.render(
            "restart.html", data, experiment=self.experiment, profiles=keeps, states=states, chosen=chosen,
            visits=VISITS, predictions=predictions, questions=QUESTIONS, result=data,
            capabilities=capabilities_of(self._profiles[chosen]) if data else None,
        )  # fmt: skip
