"""A site that is started as root and serves as nobody: CherryPy's DropPrivileges, and what gunicorn does."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cherrypy
import pytest

from services import free_port
from tests.support.application import Counter, application
from tests.support.backends import options_of
from tests.support.client import Client
from tests.support.process import ROOT, Process, environment

pytestmark = pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root has privileges to drop")

NOBODY = pwd.getpwnam("nobody")
DROP = {"uid": "nobody", "gid": "nogroup"}
SECONDS = 30  # far more than a start or a stop takes

# The site of somebody who starts it as root: applications with options of the tool, and the options of the plugin.
SITE = """
import json, os, select, socket, sys
import cherrypy
from cherrypy.process.plugins import DropPrivileges
import sessions
from sessions.backends.ram import RamStore

class OwnStore(RamStore):
    def __init__(self, *, folder):
        super().__init__()
        open(f"{folder}/own", "w").close()

class OwnSession(sessions.Session):
    store_class = OwnStore

class Pages:
    @cherrypy.expose
    def index(self):
        cherrypy.session["n"] = cherrypy.session.get("n", 0) + 1
        return f"{cherrypy.session['n']} as {os.geteuid()}"

    @cherrypy.expose
    def sign_in(self):
        cherrypy.session.sign_in("ada")

    @cherrypy.expose
    def health(self):
        cherrypy.session.store.ping()

def visit_before_the_drop():
    early.connect(("127.0.0.1", given["port"]))
    early.sendall(f"GET {next(iter(given['apps']))} HTTP/1.0\\r\\n\\r\\n".encode())
    select.select([early], [], [], 0.2)

def show_early_visit():
    print("early:", early.makefile().read().splitlines()[-1], flush=True)

given, early = json.loads(sys.argv[1]), socket.socket()
engine = cherrypy.engine
sessions.install()
cherrypy.config.update({"server.socket_port": given["port"], "engine.autoreload.on": False, "log.screen": True})
for mount, options in given["apps"].items():
    if "folder" in options:
        options["storage_class"] = OwnSession
    options["on"] = True
    config = {f"tools.sessions.{name}": value for name, value in options.items()}
    app = cherrypy.tree.mount(Pages(), mount, {"/": config})
    if "opened first" in given["how"]:
        sessions.open_stores(app)
if "visited early" in given["how"]:
    engine.subscribe("start", visit_before_the_drop, 76)
    engine.subscribe("start", show_early_visit, 90)
if given["drop"]:
    DropPrivileges(engine, **given["drop"]).subscribe()
engine.signals.subscribe()
engine.start()
engine.block()
"""

Options = dict[str, Any]


class Site(Process):
    """A process that was started as root, and may have ended by itself.

    Args:
        apps: the options of the session tool of each application, by where it is mounted.
        drop: the options of DropPrivileges; none: the site stays root.
        how: "opened first", by the site itself, or "visited early", when the port is open and the drop still to come.
        command: what to start instead, with the port to fill in.
    """

    def __init__(self, apps: dict[str, Options] | None = None, drop: Options | None = None, how: str = "",
                 command: str = "") -> None:  # fmt: skip
        port = free_port()
        given = json.dumps({"port": port, "apps": apps, "drop": drop, "how": how})
        started = command.format(port).split() if command else [sys.executable, "-c", SITE, given]
        super().__init__(started, url=f"http://127.0.0.1:{port}")

    def ready(self) -> bool:
        """Return whether it serves, or has ended."""
        return bool(re.search("Bus STARTED|Booting worker", self.output())) or self.process.poll() is not None

    def refused(self) -> str:
        """Return the one line that says why it did not start, and assert that its port never opened."""
        assert self.process.wait(SECONDS) != 0
        (line,) = [line for line in self.output().splitlines() if line.startswith("sessions: ")]
        assert "Traceback" not in self.output() and "Serving on" not in self.output(), self.output()
        return line

    def visitor(self, cookies: dict[str, str] | None = None) -> Client:
        assert self.process.poll() is None, self.output()
        return Client(self.url, cookies)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder of root's that everybody can pass."""
    path = Path(tempfile.mkdtemp(prefix="sessions-privileges-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


Start = Callable[..., Site]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Start a site, and stop it at the end."""
    with contextlib.ExitStack() as stack:

        def start(*args: Any, **options: Any) -> Site:
            return stack.enter_context(Site(*args, **options))

        yield start


def served(visitor: Client, path: str = "/") -> str:
    answer = visitor.get(path)
    assert answer.status == 200, answer.text
    return answer.text


def owners(path: Path) -> set[int]:
    return {one.lstat().st_uid for one in (path, *path.rglob("*"))}


# What the folder of the sessions is when the site starts. The one that it is in is root's.


def missing(folder: Path) -> None:
    pass


def missing_with_its_parent(folder: Path) -> None:
    folder.parent.rmdir()


def missing_in_one_of_the_account(folder: Path) -> None:
    os.chown(folder.parent, NOBODY.pw_uid, NOBODY.pw_gid)


def of_the_account(folder: Path) -> None:
    folder.mkdir()
    os.chown(folder, NOBODY.pw_uid, NOBODY.pw_gid)


def of_the_account_with_subfolders_of_root(folder: Path) -> None:
    """What a site left behind that opened its sessions as root, and then answered 503."""
    of_the_account(folder)
    subfolders_of_root(folder)


def of_everybody_with_subfolders_of_root(folder: Path) -> None:
    of_everybody(folder)
    subfolders_of_root(folder)


def subfolders_of_root(folder: Path) -> None:
    (folder / ".writable").touch(mode=0o600)
    for n in range(256):
        (folder / f"{n:02x}").mkdir(mode=0o700)


def of_everybody(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o1777)


def of_root(folder: Path) -> None:
    """As systemd makes a StateDirectory."""
    folder.mkdir(mode=0o755)


def of_root_who_served(folder: Path) -> None:
    """With sessions: see `dropped`."""


STATES = (missing, missing_with_its_parent, missing_in_one_of_the_account, of_the_account, of_everybody, of_root,
          of_root_who_served)  # fmt: skip
SITES = [(storage_type, state) for storage_type in ("file", "ram") for state in STATES]
SITES += [("file", of_the_account_with_subfolders_of_root), ("file", of_everybody_with_subfolders_of_root)]
SITES += [("own", of_the_account), ("postgresql", of_the_account)]
IDS = [f"{storage_type}-{state.__name__}" for storage_type, state in SITES]


def options_in(folder: Path, storage_type: str = "file", state: Callable[[Path], None] = of_root) -> Options:
    """Return the options of a site whose sessions are in this folder, which is made what it is to be."""
    folder.parent.mkdir(mode=0o755)
    state(folder)
    return {
        "file": lambda: {"storage_type": "file", "storage_path": str(folder)},
        "ram": lambda: {"storage_type": "ram", "snapshot_path": str(folder / "snapshot")},
        "own": lambda: {"folder": str(folder)},
        "postgresql": lambda: options_of("postgresql", folder.parent),
    }[storage_type]()


@pytest.fixture(scope="module")
def dropped(place: Path, start: Start) -> dict[str, list[str]]:
    """What the visitors of many applications were answered by a site that drops its privileges, and by the next one."""
    apps = {f"/{name}": options_in(place / name / "sessions", *one) for name, one in zip(IDS, SITES, strict=True)}
    rooted = {mount: options for mount, options in apps.items() if mount.endswith(of_root_who_served.__name__)}
    seen: dict[str, list[str]] = {mount: [] for mount in apps}
    cookies: dict[str, dict[str, str]] = {}
    for some, drop in ((rooted, None), (apps, DROP), (apps, DROP)):
        site = start(some, drop)
        for mount in some:
            visitor = site.visitor(cookies.get(mount))
            seen[mount] += [visitor.get(f"{mount}/").text for _ in range(2)]
            seen[mount] += [str(visitor.get(f"{mount}/{path}").status) for path in ("sign_in", "health")]
            cookies[mount] = visitor.cookies
        site.stop()
        assert " Error" not in site.output() and "Traceback" not in site.output()
    return seen


@pytest.mark.parametrize(("name", "one"), [pytest.param(*pair, id=pair[0]) for pair in zip(IDS, SITES, strict=True)])
def test_the_account_that_serves_has_what_is_opened(
    place: Path, dropped: dict[str, list[str]], name: str, one: tuple[str, Callable[[Path], None]]
) -> None:
    visits = [f"{n} as {NOBODY.pw_uid}" for n in range(1, 7)]
    if one[1] is of_root_who_served:
        visits[:2] = ["1 as 0", "2 as 0"]
    elif one[0] == "own":
        visits[2:4] = visits[:2]
    expected = [answer for n in range(0, len(visits), 2) for answer in (*visits[n : n + 2], "200", "200")]
    seen = dropped[f"/{name}"]
    assert seen == expected[: len(seen)] and len(seen) >= 8
    if "everybody" not in name and "subfolders_of_root" not in name:
        assert owners(place / name / "sessions") == {NOBODY.pw_uid}


@pytest.mark.parametrize("drop", [{"uid": "nobody"}, {"gid": "nogroup"}, {"uid": NOBODY.pw_uid, "umask": 0o177},
                                  {**DROP, "umask": 0}])  # fmt: skip
def test_each_way_of_dropping_privileges_serves(tmp_path: Path, start: Start, place: Path, drop: Options) -> None:
    """Also where the site opens the stores itself before, and where somebody comes before the drop, for the port opens
    first: a session that root has made the account could never read."""
    folder = place / tmp_path.name / "sessions"
    site = start({"/": options_in(folder)}, drop, "opened first, visited early")
    account = NOBODY.pw_uid if "uid" in drop else 0
    assert f"early: 1 as {account}" in site.output()
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    visitor = site.visitor()
    assert [served(visitor)[0] for _ in range(2)] == ["1", "2"], "in a folder that is made after the drop"
    assert owners(folder) == {account}
    one = next(path for path in folder.iterdir() if path.is_dir())
    os.chown(one, 0, 0)
    assert visitor.get("/health").status == (503 if account else 200), "of a folder that sessions cannot be in"
    os.chown(one, account, account)
    assert visitor.get("/health").status == 200
    assert all(path.suffix == ".lock" or path.stat().st_mode & 0o077 == 0 for path in folder.rglob("*"))


@pytest.mark.parametrize("storage_type", ["file", "ram"])
@pytest.mark.parametrize("why", ["a closed parent", "other things in it", "a folder of another account", "a link"])
def test_what_the_account_cannot_be_given_stops_the_start_with_one_line(
    tmp_path: Path, place: Path, start: Start, storage_type: str, why: str
) -> None:
    folder = place / tmp_path.name / "sessions"
    options = options_in(folder, storage_type)
    if why == "a closed parent":
        folder.parent.chmod(0o700)
    elif why == "other things in it":
        (folder / "passwords").touch()
    elif why == "a folder of another account":
        os.chown(folder, 1, 1)
    else:
        folder.rename(folder.with_name("elsewhere"))
        folder.symlink_to("elsewhere")
    line = start({"/": options}, DROP).refused()
    assert ("storage_path" in line or "snapshot_path" in line) and str(folder) in line and "Permission denied" in line
    assert f"DropPrivileges makes uid {NOBODY.pw_uid} of root" in line
    assert why == "a closed parent" or NOBODY.pw_uid not in owners(folder.parent)


def test_root_gives_away_nothing_that_others_may_have_put_there(tmp_path: Path, place: Path, start: Start) -> None:
    folder, treasure = place / tmp_path.name / "sessions", place / "treasure"
    options = options_in(folder)
    treasure.write_text("root's")
    for name, mode in (("00", 0o777), ("01", 0o700)):
        (folder / name).mkdir()
        (folder / name).chmod(mode)
    os.link(treasure, folder / "00" / "hard")
    (folder / "01" / "soft").symlink_to(treasure)
    served(start({"/": options}, DROP).visitor())
    assert treasure.stat().st_uid == 0


# -------------------------------------------------------------------- what is root without the plugin


def site_in_place(profile: str | None = None) -> cherrypy.Application:
    """The site that gunicorn loads, and that the operator's command opens."""
    return application(Counter(), storage_type="file", storage_path=os.environ["PLACE"])


@pytest.mark.parametrize("state", [missing_in_one_of_the_account, of_the_account])
def test_workers_that_drop_privileges_after_they_were_forked_serve(
    tmp_path: Path, place: Path, start: Start, state: Callable[[Path], None]
) -> None:
    folder = place / tmp_path.name / "sessions"
    options_in(folder, state=state)
    command = (
        f"{sys.executable} -m gunicorn --preload --user nobody --group nogroup --bind 127.0.0.1:{{}} "
        f"--no-control-socket --env PLACE={folder} tests.sessions.test_privileges:site_in_place()"
    )
    visitor = start(command=command).visitor()
    assert [served(visitor) for _ in range(3)] == ["1", "2", "3"]
    assert owners(folder) == {NOBODY.pw_uid}


@pytest.mark.parametrize("state", [missing_in_one_of_the_account, of_the_account])
def test_the_operators_command_leaves_nothing_of_roots(
    tmp_path: Path, place: Path, state: Callable[[Path], None]
) -> None:
    folder = place / tmp_path.name / "sessions"
    options_in(folder, state=state)
    command = [sys.executable, "-m", "sessions", "list", "--app", "tests.sessions.test_privileges:site_in_place"]
    env = environment({"PLACE": str(folder)})
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=SECONDS)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "sudo -u nobody" in ended.stderr
    assert owners(folder) == {NOBODY.pw_uid}
