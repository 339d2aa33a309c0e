"""The second factor of an account of a site, as its owner has it: an app, and recovery codes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pyotp

from tests.support.client import JSON, Client

PAGE, CODE = "/account/second-factor", "/login/code"


@dataclass
class Device:
    """The app on a telephone, and the paper with the recovery codes.

    Attributes:
        clock: epoch seconds.
    """

    secret: str
    recovery: list[str]
    clock: Callable[[], float]

    def code(self, later: int = 0) -> str:
        """Return the code that the app shows now, or so many steps of 30 seconds later."""
        return pyotp.TOTP(self.secret).at(int(self.clock()) + 30 * later)


def turn_on(owner: Client, clock: Callable[[], float] = time.time) -> Device:
    """Turn it on for somebody who has just signed in. That uses up the code of now; that of the next step is right."""
    assert owner.post(PAGE, {"do": "begin"}, **JSON).status == 303
    device = Device(owner.get(PAGE, **JSON).json["secret"].replace(" ", ""), [], clock)
    answer = owner.post(PAGE, {"do": "on", "code": device.code()}, **JSON)
    assert answer.status == 200, answer.text
    device.recovery += answer.json["recovery_codes"]
    return device
