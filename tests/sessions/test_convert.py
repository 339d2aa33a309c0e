"""`python -m sessions convert`: a configuration of every CherryPy since 0.9, and that what comes out starts a site."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import cherrypy
import pytest
from cherrypy.lib import reprconf

import sessions
from services import free_port
from sessions.cli import main
from sessions.convert import convert
from tests.support.application import Counter
from tests.support.client import Client, WsgiClient
from tests.support.process import ROOT, Process, environment

# By version: the old file, what is in force in [/] of the new one, and pieces of what a person is told.
FILES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "0.9": (
        """\
# The shop, 2003
[server]
socketPort=8080  ; the port
siteKey=correct horse battery staple
; its sessions
[session]
STORAGETYPE=cookie
timeout: 30  ; minutes
cookieName=Shop
""",
        {"on": True, "storage_type": "cookie", "persistent": False, "timeout": 30, "name": "Shop"},
        ["line 3: socketPort: ", "line 4: siteKey: ", "tools.sessions.secret", "line 9: cookieName: ", "not read"],
    ),
    "0.10": (
        "[server]\nsocketPort=8080\n[session]\nstorageType=custom\ncleanUpDelay=0\ntimeout=0.5\n[staticContent]\nx=y\n",
        {"on": True, "persistent": False, "clean_freq": 0, "timeout": 0.5},
        ["line 4: storageType: 'functions' needs tools.sessions.load", "other signatures", "in memory", "line 8: x: "],
    ),
    "2.0": (
        "[server]\nenvironment=production\n\n[session]\nstorageType=file\nstorageFileDir=FOLDER\nrem the end\n",
        {"on": True, "storage_type": "file", "persistent": False, "storage_path": "FOLDER"},
        ["line 2: environment: ", "line 6: storageFileDir: name a new folder"],
    ),
    "2.1 alpha": (
        """\
[global]
server.socketPort = 8080
sessionFilter.on = True
sessionFilter.storageType = "file"
sessionFilter.timeout = 60
cart.timeout = 5   # a cart does not wait
session.cookieName = "Shop"

[/cart]
sessionFilter.new = "cart"
""",
        {"on": True, "storage_type": "file", "timeout": 60, "storage_path": ".sessiondata", "name": "Shop"},
        ["line 2: server.socketPort: ", "line 10: sessionFilter.new: ", "tools.sessions.storage_path was not there"],
    ),
    "2.1 beta": (
        """\
[global]
sessionFilter.on = True
sessionFilter.sessionList = ['default']
sessionFilter.default.on = True
sessionFilter.timeMultiple = 60
sessionFilter.timeout = 60
sessionFilter.storageType = 'anydb'
sessionFilter.cookiePrefix = 'Shop'
""",
        {"on": True, "timeout": 60, "name": "Shop"},
        ["line 2: sessionFilter.on: another line", "line 3: ", "line 5: ", "counted seconds", "'anydb' cannot be"],
    ),
    "2.1": (
        """\
[global]
sessionFilter.on = True
sessionFilter.storageType = "PostgreSQL"
sessionFilter.getDB = shop.database.connect
sessionFilter.deadlockTimeout = 30
staticFilter.root = "/srv"

[/images]
staticFilter.on = True
sessionFilter.on = False
""",
        {"on": True, "lock_timeout": 30, "locking": "explicit"},
        ["'postgresql' needs tools.sessions.dsn", "in memory", "python -m sessions sql", "line 6: ", "line 9: ",
         "locking: it was 'explicit' where nothing is said", "staticFilter.on"],
    ),
    "2.2": (
        """\
[global]
server.socket_port = PORT
session_filter.on = True
session_filter.timeout = 20
sessionFilter.timeout = 30
session_filter.storage_type = "File"
session_filter.storage_path = "FOLDER"
session_filter.on_create_session = shop.hello
session_filter.locking = "implicit"

[/]
sessionFilter.cookieName = "Shop"
# the owner is quick
[/admin]
session_filter.timeout = 5
""",
        {"on": True, "timeout": 30, "storage_type": "file", "storage_path": "FOLDER", "locking": "implicit",
         "name": "Shop"},
        ["line 4: session_filter.timeout: another line says it too, and counts", "sessions.subscribe"],
    ),
    "2.3": (
        """\
[global]
server.socket_port = 8080
server.log_to_screen = True
session_filter.on = True
session_filter.timeout = 0
session_filter.storage_class = shop.OwnStorage
session_filter.cookie_secure = 1
session_authenticate_filter.on = True
""",
        {"on": True, "timeout": 60, "persistent": False, "secure": "auto", "locking": "explicit"},
        ["line 3: server.log_to_screen: ", "line 6: ", "names its Store", "only True had an effect", "sign_in(user)"],
    ),
    "3.0": (
        """\
[global]
server.socket_port = 8080
environment = "production"
[/]
tools.sessions.on = True
tools.sessions.storage_type = "postgresql"
tools.sessions.get_db = shop.database.connect
tools.sessions.clean_freq = 300
tools.sessions.pgname = 'shop'
""",
        {"on": True, "clean_freq": 300},
        ["needs tools.sessions.dsn", "line 7: tools.sessions.get_db: ", "counted seconds", "line 9: "],
    ),
    "3.8": (
        """\
[global]
tools.sessions.on = True

[/]
tools.sessions.storage_type = "Ram"
tools.sessions.locking = "none"
tools.sessions.secure = 0
tools.sessions.httponly = 1
tools.sessions.lock_timeout = None
tools.sessions.clean_freq = None
tools.session_auth.on = True
""",
        {"on": True, "storage_type": "ram", "locking": "explicit", "secure": False, "httponly": True,
         "lock_timeout": 600, "clean_freq": 0},
        ["line 11: tools.session_auth.on: ", "any password"],
    ),
    "8.1": (
        """\
[/]
tools.sessions.on = True
tools.sessions.storage_class = cherrypy.lib.sessions.FileSession
tools.sessions.storage_path = "FOLDER"   # ours
tools.sessions.lock_timeout = datetime.timedelta(seconds=30)
""",
        {"on": True, "storage_class": cherrypy.lib.sessions.FileSession, "storage_path": "FOLDER"},
        ["line 4: tools.sessions.storage_path: name a new folder"],
    ),
    "18.10": (
        """\
[global]
server.socket_host = "127.0.0.1"

[/]
tools.sessions.on: True
tools.sessions.timeout = 30
tools.gzip.on = True
tools.response_headers.headers = [
    ("X-Shop", "1"),
    # more to come
    ("X-Till", "2"),
    ]
""",
        {"on": True, "timeout": 30},
        ["not read"],
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions.install()
    monkeypatch.chdir(tmp_path)


def the_file(version: str, place: Path, port: int = 0) -> str:
    return FILES[version][0].replace("FOLDER", str(place / "sessions")).replace("PORT", str(port))


def loaded(text: str) -> dict[str, dict[str, Any]]:
    """What CherryPy reads in a configuration."""
    sections: dict[str, dict[str, Any]] = reprconf.Parser.load(io.StringIO(text))
    return sections


@pytest.mark.parametrize("version", FILES)
def test_the_configuration_of_every_version_is_converted_and_starts(version: str, tmp_path: Path) -> None:
    _, expected, told = FILES[version]
    text, remarks = convert(the_file(version, tmp_path))
    sections = loaded(text)
    options = {name.removeprefix("tools.sessions."): value for name, value in sections["/"].items()}
    expected = {name: str(tmp_path / "sessions") if value == "FOLDER" else value for name, value in expected.items()}
    assert {name: options.get(name) for name in expected} == expected
    for one in told:
        assert one in "\n".join(remarks)
    assert "correct horse" not in text + "".join(remarks)
    app = cherrypy.Application(Counter(), "", sections)
    (settings, _) = sessions.open_stores(app)[0]
    try:
        client = WsgiClient(app)
        assert [client.get().text for _ in range(2)] == ["1", "2"]
        assert settings.timeout == expected.get("timeout", 60)
    finally:
        sessions.close_stores(app)


def test_what_it_prints_starts_a_site(tmp_path: Path) -> None:
    (tmp_path / "old.conf").write_text(the_file("2.2", tmp_path, port := free_port()))
    command, env = "-m sessions convert old.conf", environment({"PYTHONPATH": str(ROOT)})
    with open(tmp_path / "new.conf", "w") as new:
        ended = subprocess.run(
            [sys.executable, *command.split()], cwd=tmp_path, env=env, stdout=new, stderr=subprocess.PIPE
        )
    assert ended.returncode == 0
    assert all(line.startswith(b"old.conf: ") for line in ended.stderr.splitlines())
    program = """
import cherrypy, sessions
from services import free_port
from tests.support.application import Counter
sessions.install()
cherrypy.config.update({"engine.autoreload.on": False})
root = Counter()
root.admin = Counter()
cherrypy.quickstart(root, "/", "new.conf")
"""
    with Process(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, url=f"http://127.0.0.1:{port}"
    ) as site:
        client = Client(site.url)
        answers = [client.get("/"), client.get("/"), client.get("/admin/")]
    assert [answer.text for answer in answers] == ["1", "2", "3"]
    assert answers[0].cookies["Shop"]["max-age"] == "1800"
    assert list((tmp_path / "sessions").rglob("*"))


# -------------------------------------------------------------------- the text


def test_comments_stay_where_they_stood() -> None:
    old = """\
# The shop
; and its till

[global]
# the port
server.socket_port = 8080   # as ever

# how long
# somebody may think
session_filter.timeout = 20 ; minutes
   # of the owner
[/admin]
# less
session_filter.timeout = 5
# the end
"""
    assert (
        convert(old)[0]
        == """\
# The shop
; and its till

[global]
# the port
server.socket_port = 8080   # as ever

[/]
# how long
# somebody may think
tools.sessions.timeout = 20  # minutes
tools.sessions.locking = 'explicit'

   # of the owner
[/admin]
# less
tools.sessions.timeout = 5
# the end"""
    )


def test_a_section_is_written_once_and_so_is_an_option() -> None:
    old = "[global]\nsession_filter.timeout = 5\n[/]\nsession_filter.timeout = 6\n"
    old += "[/]\na.b = 1\nsession_filter.timeout = 7\n"
    text, remarks = convert(old)
    assert loaded(text)["/"] == {"tools.sessions.timeout": 7, "a.b": 1, "tools.sessions.locking": "explicit"}
    assert [line for line in text.splitlines() if line.startswith("# ")] == [
        "# tools.sessions.timeout = 5", "# tools.sessions.timeout = 6",
    ]  # fmt: skip
    assert [one.partition(": ")[0] for one in remarks if "another line" in one] == ["line 2", "line 4"]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("tools.sessions.name = 'a #b'", "a #b"), ('tools.sessions.name = "a;b"  ; why', "a;b"),
        ("session_filter.cookie_name = 'it # is' # why", None), ("session_filter.cookie_name = 'x'#y", "x"),
        ("session_filter.cookie_name: 'x'", "x"), ("session_filter.cookie_name='x'", "x"),
    ],
)  # fmt: skip
def test_a_comment_behind_a_value_is_none_of_it(line: str, value: str | None) -> None:
    """A name that no cookie can have is left for a person."""
    text, remarks = convert(f"[/]\n{line}\n")
    options = loaded(text)["/"]
    assert options.get("tools.sessions.name") == (value if value == "x" else None)
    assert ("cannot be the value" in "".join(remarks)) == (value != "x")


def test_what_is_not_of_sessions_stays_where_cherrypy_18_knows_it() -> None:
    kept = """\
[global]
server.socket_port = 8080
server.thread_pool = 10
server.ssl.socket_port = 8443
log.screen = True
engine.autoreload.on = False
environment = "production"
tree.shop = shop.application

[/]
tools.gzip.on = True
request.body.maxbytes = 10 * 1024
shop.title = "Session"
shop.texts = {
    "a": 1,

    # two
    "b": [2],
    }

[prices]
apple = 3"""
    assert convert(kept)[0] == kept
    old = ["server.socketPort = 80", "server.log_to_screen = True", "log_file = 'x'", "static_filter.on = True",
           "gzipFilter.on = True", "shop.title = two words", "shop.mode = 0777"]  # fmt: skip
    text, remarks = convert("\n".join(["[global]", *old]))
    assert text == "\n".join(["[global]", *(f"# {line}" for line in old)])
    assert [one.partition(": ")[0] for one in remarks] == [f"line {n}" for n in range(2, 2 + len(old))]


def test_a_value_over_several_lines_is_converted_too() -> None:
    old = "[/]\ntools.sessions.servers = [  # two\n    'a:1',\n    # and\n    'b:1',\n  ]\ntools.sessions.on = 1\n"
    assert loaded(convert(old)[0])["/"] == {"tools.sessions.servers": ["a:1", "b:1"], "tools.sessions.on": True}
    old = "[/]\nsession_filter.timeout = (20 +\n   10)\nsessionFilter.getDB = shop.connect(\n   'x')\n"
    assert loaded(convert(old)[0])["/"]["tools.sessions.timeout"] == 30
    assert "# sessionFilter.getDB = shop.connect(\n#    'x')\n" in convert(old)[0]


@pytest.mark.parametrize("option", ["on", "timeout", "locking", "storage_type"])
def test_what_a_name_of_the_sites_own_stands_for_is_not_guessed(option: str) -> None:
    text, remarks = convert(f"[/]\nsession_filter.{option} = shop.settings.VALUE\n")
    assert f"# session_filter.{option} = shop.settings.VALUE" in text
    assert f"tools.sessions.{option} = True" not in text and remarks[0].startswith(f"line 2: session_filter.{option}: ")
    today = f"[/]\ntools.sessions.{option} = shop.settings.VALUE"
    assert convert(today)[0] == today


@pytest.mark.parametrize(
    ("value", "minutes"), [("24 * 60", 1440), ("60 + 30", 90), ("'a' + 1", None), ("lambda: 1", None)]
)
def test_a_sum_is_worked_out(value: str, minutes: int | None) -> None:
    assert loaded(convert(f"[/]\nsession_filter.timeout = {value}\n")[0])["/"].get("tools.sessions.timeout") == minutes


def test_a_secret_is_made_anew_each_time() -> None:
    old = "[server]\nsiteKey = abc\n[session]\nstorageType = cookie\n"
    first, second = (loaded(convert(old)[0])["/"]["tools.sessions.secret"] for _ in range(2))
    assert first != second and min(len(first), len(second)) >= 32


def test_memcached_is_asked_at_the_address_that_was_the_default() -> None:
    for storage in ("storage_type = 'memcached'", "storage_class = cherrypy.lib.sessions.MemcachedSession"):
        text, _ = convert(f"[/]\ntools.sessions.{storage}\n")
        assert loaded(text)["/"]["tools.sessions.servers"] == "127.0.0.1:11211"
    assert "tools.sessions.dsn" not in convert("[/]\ntools.sessions.on = True")[0]


def test_a_dsn_that_is_there_is_used() -> None:
    text = "[/]\ntools.sessions.storage_type = 'postgresql'\ntools.sessions.dsn = 'dbname=shop'"
    assert convert(text)[0] == text


# -------------------------------------------------------------------- the command


def test_the_command_says_nothing_of_what_is_right_and_ends_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my.conf"
    path.write_bytes("[/]\ntools.gzip.on = True  # caf\xe9\n".encode("latin-1"))  # the editors of then
    assert main(["convert", str(path)]) == 0
    out, err = capsys.readouterr()
    assert (loaded(out), err) == ({"/": {"tools.gzip.on": True}}, "")
    path.write_text("\ufeff[/]\ntools.gzip.on = True  # café\n", encoding="utf-8")
    assert main(["convert", str(path)]) == 0
    assert capsys.readouterr().out == "[/]\ntools.gzip.on = True  # café\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "cannot be read: No such file or directory"), (b"", "it has no section"), (b"# nothing\n", "no section"),
        (b"session_filter.on = True\n", "line 1 is before any section"), (b"[/]\n<html>\n", "line 2 is no option"),
        (b"import cherrypy\n", "line 1"), (b"\x00\xff\xfe[/]", "line 1"), (b"[/\n", "line 1"),
    ],
)  # fmt: skip
def test_what_is_no_configuration_is_refused_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes | None, why: str
) -> None:
    path = tmp_path / "old.conf"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(path)])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    assert str(path) in err and why in err


def test_a_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["convert", str(tmp_path)])
    assert "cannot be read: Is a directory" in capsys.readouterr().err
