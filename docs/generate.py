"""Put what the code knows into the documents: `make docs`, or `python -m docs.generate`.

In README.md and docs/*.md, what stands between `<!-- made by make docs: WORDS -->` and `<!-- end -->` is what the
function of the first word returns, called with the other words. Options are described by the comments and docstrings
beside them, events by the docstring of sessions/events.py, figures by the last benchmark.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterable
from typing import Any
from unittest import TestCase
from unittest.mock import patch

import app
import sessions
from auth import throttle
from sessions import events
from sessions.old_names import TABLE
from sessions.options import Settings, parse, store_options
from sessions.registry import BACKENDS, backend
from sessions.tool import SessionTool
from web.production import CHECKS, SITE_CHECKS
from web.settings import ABOUT, ENVIRONMENT, ROOT, SITE_CONF, find_profiles, read

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FIGURES = ROOT / "docs" / "figures.json"
_WSGI = re.compile("HTTP_|PATH_|QUERY_|REMOTE_|REQUEST_|SCRIPT_|SERVER_")  # what a request has in its `environ`
MARKED = re.compile(r"(<!-- made by make docs: ([^\n]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NOT_THE_SITE = {"bench", "deploy", "docs", "examples", "lab", "lessons", "services", "tests"}
SOURCES = [
    path for path in sorted(ROOT.rglob("*.py"))
    if not path.relative_to(ROOT).parts[0].startswith((".", *_NOT_THE_SITE))
]  # fmt: skip

# What no line of the code says.
_TOOL_OPTIONS = {
    "on": (False, "True or False", "whether the pages of this path have sessions"),
    "storage_type": (
        inspect.signature(sessions.init).parameters["storage_type"].default,
        f"one of {', '.join(BACKENDS)}",
        "the backend; its own options are in the table below",
    ),
    "storage_class": (
        None,
        "a class, or in a file its dotted name",
        "instead of `storage_type`: a [backend of your own](writing-a-backend.md), or a class written for CherryPy's "
        "own tool",
    ),
    "priority": (
        SessionTool()._priority,
        "a number",
        "the place among CherryPy's hooks of a class written for its own tool, and ten after it of an `early` lock",
    ),
}
_VARIABLES = {
    "PROFILE": "as `--profile`",
    "HOST": "as `--host`",
    "PORT": "as `--port`",
    "STORAGE_PATH": "a relative one starts at the folder of the project. The users are kept there as well",
    "USERS_URL": "`sqlite:///PATH` or `postgresql://...`, when the users are to be elsewhere",
    "DATABASE_URL": "the users are there as well",
    "ACCOUNTS_PATH": "for `user import`: the old file of changed passwords, if it was elsewhere",
    "SITE_URL": "where links in mails lead",
    "SMTP_URL": "the [mail server](authentication.md#sign-up-and-forgotten-passwords), with its password",
    "MAIL_FROM": "whom the mails are from",
    "SCRIPT_NAME": "the path of a proxy below which visitors find the site",
    "TRUSTED_PROXIES": "networks with commas between; takes effect with `deploy/behind-proxy.conf`, or where a file of "
    "settings names the option",
    "MOUNT": "a package of further pages: its function `mount(root, site)` adds them",
    "XDG_STATE_HOME": "the folder for a secret that the `cookie` profile made itself, on a loopback address only",
    "DEMO_PASSWORD": "the password of the demo account `ada`. Without it a random one is printed, and shown on the "
    "sign-in page. There is no demo account on an address that others can reach, nor in production",
}
_WHEN = {  # what is logged by `log_event`
    "sign-in": "somebody signed in",
    "sign-in refused: wrong name or password": "at the form, or where the password is asked for again. A name without "
    "an account is not written: it may be a password",
    "sign-in refused: wrong code": "of a second factor, after a right password",
    "the password was right, the code is asked for": "somebody is half signed in",
    "second factor changed": "by its owner: `on`, `codes` for new recovery codes, `off`. All other sessions are ended",
    "too many tries": "the answer was 429; `purpose=` says at what: password, code, reset or sign-up",
    "tries are counted in this process alone": "the server of the sessions does not answer; once, until it does again",
    "sign-out": "somebody signed out",
    "signed up": "somebody has made an account of their own",
    "password changed by a link": "that was sent by mail",
    "a mail was not sent": "the mail server refused it, did not answer, or had a wrong certificate; for good",
    "password changed": "by its owner",
    "password not changed: it was changed meanwhile": "two changes at once: the second had proved the old one only",
    "a password hash was renewed": "at a sign-in, with the parameters of today",
    "a password hash was not renewed": "the accounts could not be written; the old hash still holds",
    "the last revocation is ahead of the clock": "by more than a minute: this clock is behind, or another one was "
    "ahead. Nobody is locked out by it",
    "cross-site request refused": "another site sent a form or a script",
    "step of a session": "with the option `debug` only, which production refuses: each step of each session",
}


def table(headers: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table in Markdown."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (headers, *rows)]
    first, *others = (f"| {' | '.join(row)} |" for row in cells)
    return "\n".join([first, "|" + "---|" * len(cells[0]), *others])


# ---------------------------------------------------------------- options


def options() -> str:
    """Every option that all backends have."""
    meanings = dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(Settings), re.MULTILINE))
    found: dict[str, tuple[object, str, str]] = dict(_TOOL_OPTIONS)
    for field in dataclasses.fields(Settings):
        if field.name not in ("storage_class", "store"):
            found[field.name] = (field.default, _allowed(field.name), meanings[field.name])
    return table(
        ["Option", "Default", "What it may be", "Meaning"],
        [[f"`{name}`", f"`{default!r}`", *texts] for name, (default, *texts) in found.items()],
    )


def _allowed(name: str) -> str:
    """What an option may be, as the error says it."""
    try:
        parse({name: object()}, backend("ram"))
    except sessions.ConfigError as error:
        return str(error).partition(": it must be ")[2]
    raise AssertionError(f"{name} takes everything")


def backend_options() -> str:
    """Every option of a backend's own."""
    rows = []
    for storage_type in BACKENDS:
        meanings = arguments(backend(storage_type).store_class)
        for name, parameter in store_options(backend(storage_type)).items():
            default = "required" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
            rows.append([f"`{storage_type}`", f"`{name}`", default, meanings[name]])
    return table(["Backend", "Option", "Default", "Meaning"], rows)


def old_names() -> str:
    """What every CherryPy called an option."""
    rows = []
    for row in TABLE:
        names, versions = zip(*row.spellings(), strict=True)
        today = f"`{row.today}`" if row.convert else row.today
        rows.append([", ".join(f"`{name}`" for name in names), ", ".join(dict.fromkeys(versions)), today, row.remark])
    return table(["Old name", "CherryPy", "Today", "What to know"], rows)


def arguments(documented: object) -> dict[str, str]:
    """What a docstring says of each argument."""
    listed = re.search(r"^Args:\n((?:    .*\n?)+)", inspect.getdoc(documented) or "", re.MULTILINE)
    found = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", listed[1] if listed else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def commands() -> str:
    """Every option of the command line."""
    wide = patch.dict(os.environ, COLUMNS="1000")  # as argparse takes the terminal to be: it breaks no line
    with wide, contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        app.main(["--help"])
    found = re.findall(r"^  (?:-\w, )?(--[\w-]+(?: [A-Z]\S*)?) +(\S.*)$", shown.getvalue(), re.MULTILINE)
    return table(["Option of `app.py`", "Meaning"], [[f"`{name}`", meaning] for name, meaning in found])


def variables() -> str:
    """Every environment variable that the site reads."""
    code = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    asked = {name for name in re.findall(r'environ(?:\.get\(|\[)"([A-Z_]+)"', code) if not _WSGI.match(name)}
    profiles = find_profiles(read(SITE_CONF))
    rows = []
    for name in [*ENVIRONMENT, *sorted(asked - ENVIRONMENT.keys())]:
        _, option, _ = ENVIRONMENT.get(name, ("", "", None))
        users = [profile for profile, given in profiles.items() if option in given]
        of = f" of the profile {', '.join(f'`{user}`' for user in users)}" if users else ""
        says = filter(None, [f"sets `{option}`{of}" if option else "", _VARIABLES.get(name, "")])
        rows.append([f"`{name}`", "; ".join(says)])
    return table(["Variable", "Meaning"], rows)


def limits() -> str:
    """How long a session lives on this site."""
    given = read(SITE_CONF)["/"]
    default = {field.name: field.default for field in dataclasses.fields(Settings)}
    rows = []
    for who, prefix in (("A visitor, and whoever signs in", ""), ("Who ticks *Stay signed in*", "remember_")):
        names = [f"{prefix}{name}" for name in ("timeout", "lifetime")]
        minutes = [given.get(f"tools.sessions.{name}", default[name]) for name in names]
        rows.append([who, *(f"{number} minutes" for number in minutes), ", ".join(f"`{name}`" for name in names)])
    return table(["", "Idle", "At most", "Options"], rows)


def guessing() -> str:
    """How often something may be tried, and what that leaves an attacker."""
    who = ["One IPv4 address, or a /64 of IPv6", "A /56", "A /48"]
    rows = [[name, "anything, at all accounts", limit] for name, limit in zip(who, throttle.ADDRESS, strict=True)]
    rows.append(["One address, or a /48, at one account", "password, before those of the next line", throttle.PAIR])
    rows += [["All addresses at one account", purpose, limit] for purpose, limit in throttle.ACCOUNT.items()]
    limits = [[name, what, f"{limit.amount} per {limit.GRANULARITY.name}"] for name, what, limit in rows]
    return f"{table(['Who', 'Tries what', 'At most'], limits)}\n\n{str(throttle.__doc__).partition(chr(10) * 2)[2]}"


def production() -> str:
    """What --production wants of each setting."""
    rows = [[f"`{one.option}`", one.remedy[0].upper() + one.remedy[1:]] for one in (*CHECKS, *SITE_CHECKS)]
    return table(["Setting", "In production"], rows)


# ---------------------------------------------------------------- backends


def backends() -> str:
    """The backends beside each other."""
    rows = []
    for name, about in ((name, given[ABOUT]) for name, given in find_profiles(read(SITE_CONF)).items()):
        can = backend(name).store_class.capabilities
        able = [can.survives_restart, can.shared, can.locks_processes, can.revokes, can.lists]
        rows.append([f"[`{name}`](docs/backends.md#{name})", about, *("yes" if one else "no" for one in able),
                     f"{float(_costs()[name][0]):.0f} µs" if name in _costs() else "not measured yet"])  # fmt: skip
    return table(
        ["Backend", "Sessions are", "Survive a restart", "Shared by processes", "Locked between them",
         "Sign-out is final", "Listed by user", "A page that writes"], rows,
    )  # fmt: skip


def capabilities() -> str:
    """What each backend says of itself."""
    sections = []
    for name in BACKENDS:
        can = backend(name).store_class.capabilities
        size = f"About {round(can.max_bytes, -2):,} bytes of values." if can.max_bytes else ""
        words = {
            "Keeps": can.keeps, "Needs": can.needs, "Shared by": can.sharing, "Locking": can.locking,
            "Largest session": size, "Cleaning": can.cleaning, "When it is down": can.outage, "Cannot": can.limitations,
        }  # fmt: skip
        lines = [f"* **{label}**: {text}" for label, text in words.items() if text]
        sections.append("\n".join([f"### `{name}`", "", *lines]))
    return "\n\n".join(sections)


# ---------------------------------------------------------------- events and the log


def published() -> list[list[str]]:
    """The events of a session: name, when, details."""
    return [list(row) for row in re.findall(r"^    (\w+) +(\S.*?)(?: {2,}(.*))?$", events.__doc__ or "", re.MULTILINE)]


def event_table() -> str:
    """The events of a session."""
    rows = [[f"`{name}`", when, details, "yes" if name in events.LOGGED else ""] for name, when, details in published()]
    return table(["Event", "When", "Details", "In the log"], rows)


def log() -> str:
    """The events that the site and the package write into the log."""
    when = {name: text for name, text, _ in published()}
    rows = [[f"`{text}`", _level(name), when[name]] for name, text in events.LOGGED.items()]
    levels = _logged("log_event")
    rows += [[f"`{text}`", levels.get(text, "INFO"), _WHEN.get(text, "")] for text in {**_WHEN, **levels}]
    return table(["Message", "Level", "When"], rows)


def messages() -> str:
    """What else the package writes into the log."""
    found = _logged("log.info") | _logged("log.warning") | _logged("log.exception")
    return table(["Message", "Level"], [[f"`{text}`", level] for text, level in sorted(found.items())])


def _level(event: str) -> str:
    with TestCase().assertLogs(events.log, logging.DEBUG) as seen:
        events.write_to_log(sessions.Event(event, 0.0, "", {}))
    return seen.records[0].levelname


def _logged(function: str) -> dict[str, str]:
    """The fixed messages that are logged by calls of a function, with their levels; … stands for what differs."""
    found = {}
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES)
    for node in (node for tree in trees for node in ast.walk(tree)):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith(function) and node.args):
            continue
        text = getattr(node.args[0], "value", None)
        if isinstance(text, str):
            given = {keyword.arg: ast.unparse(keyword.value).removeprefix("logging.") for keyword in node.keywords}
            usual = {"log.warning": "WARNING", "log.exception": "ERROR"}.get(function, "INFO")
            found[re.sub(r"%\w", "…", text)] = given.get("level", usual)
    return found


# ---------------------------------------------------------------- examples and figures


def example(name: str) -> str:
    """A program of examples/."""
    return f"```python\n{(ROOT / 'examples' / name).read_text(encoding='utf-8').rstrip()}\n```"


def figures(part: str) -> str:
    """The figures of a part of the benchmark, as it was run last."""
    found = _figures().get(part)
    if not found:
        return f"Not measured yet: `make bench ARGS={part}`."
    texts = []
    for section in found["sections"]:
        texts.append(f"**{section['title']}.** {section['how']}")
        texts += [table(headers, rows) for headers, *rows in section["tables"]]
        if section["targets"]:
            texts.append(table(["Target", "Measured", "Wanted", ""], section["targets"]))
    return "\n\n".join([*texts, f"*Measured {'; '.join(found['measured on'])}.*"])


def _figures() -> dict[str, Any]:
    return dict(json.loads(FIGURES.read_text(encoding="utf-8")))


def _costs() -> dict[str, list[str]]:
    """What a page costs with each backend, by its name: of one that writes, reads, leaves its session alone."""
    (section,) = _figures()["cost"]["sections"]
    return {name.removesuffix(" *"): cells for name, *cells in section["tables"][0][1:]}


# ---------------------------------------------------------------- the documents

MAKERS: dict[str, Callable[..., str]] = {
    "backend-options": backend_options, "backends": backends, "capabilities": capabilities, "commands": commands,
    "events": event_table, "example": example, "figures": figures, "guessing": guessing, "limits": limits, "log": log,
    "messages": messages, "old-names": old_names, "options": options, "production": production, "variables": variables,
}  # fmt: skip


def made(text: str) -> str:
    """Return a document with what the code knows today."""

    def fill(found: re.Match[str]) -> str:
        maker, *words = found[2].split()
        return f"{found[1]}{MAKERS[maker](*words)}\n{found[3]}"

    return MARKED.sub(fill, text)


def main() -> None:
    """Write the documents that differ, and name them."""
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        if (after := made(before)) != before:
            path.write_text(after, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
