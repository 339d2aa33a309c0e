"""`python app.py new FOLDER`: a site of one's own, with everything but what teaches, measures and explains this one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from web.settings import ROOT, StartError, one_line

# What goes along, and nothing else. README.md, site.conf and pyproject.toml are the new site's own.
ALONG = (
    "app.py", "auth", "deploy", "pages", "services", "sessions", "static", "templates", "web",
    "tests/__init__.py", "tests/conftest.py", "tests/targets.mk", "tests/auth", "tests/deploy", "tests/pages",
    "tests/sessions", "tests/support", "tests/web", "tests/windows", ".ci", ".devcontainer", ".dockerignore",
    ".editorconfig", ".env.example", ".github", ".gitignore", ".pre-commit-config.yaml", "Dockerfile", "LICENSE",
    "Makefile", "Procfile", "compose.yaml", "requirements.txt", "requirements-dev.txt",
)  # fmt: skip
README = Path(__file__).with_suffix(".md")
_LEFT_BEHIND = shutil.ignore_patterns("__pycache__", "*.pyc", "test_new.py")  # the test of this module
_LONGEST = 60  # characters of a name
_LOCKED = re.compile(r"^([a-z0-9-]+)==", re.MULTILINE)
_KEY = re.compile(r"([\w.-]+)\s*=")
_GIT = ("git", "-c", "commit.gpgsign=false", "-c", f"core.hooksPath={os.devnull}")  # what would ask, or refuse


def new(folder: str, name: str | None = None) -> None:
    """Make a site in a folder that is not there yet, or is empty: all of it, or nothing.

    Args:
        folder: its path.
        name: what the site is called; None takes the name of the folder.

    Raises:
        StartError: nothing was made.
    """
    for end in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, end):
            signal.signal(getattr(signal, end), signal.default_int_handler)
    try:
        target = Path(folder).resolve()
        name = (target.name if name is None else name).strip()
        _check(target, name)
        # Beside the target, and so on the same disk, where one step makes it the target.
        with tempfile.TemporaryDirectory(prefix=".new-", dir=target.parent) as scratch:
            site = Path(scratch, "site")
            _write(site, name)
            _commit(site)
            if target.exists():
                target.rmdir()  # Windows puts nothing in the place of an empty folder
            site.rename(target)
    except KeyboardInterrupt:
        raise StartError(f"interrupted: {folder} was not made") from None
    except (OSError, RuntimeError) as error:
        raise StartError(f"{folder} cannot be made: {one_line(error)}") from error
    print(f"Made {target}: go there, and make run. Its README.md says what comes next.")


def _check(target: Path, name: str) -> None:
    if not (0 < len(name) <= _LONGEST and name.isprintable()):
        raise StartError(f"the name of a site is one line of at most {_LONGEST} characters, not {name!r}: give --name")
    if target.is_relative_to(ROOT):
        raise StartError(f"{target} is a part of this project: choose a folder outside of {ROOT}")
    if not target.parent.is_dir():
        raise StartError(f"there is no folder {target.parent}: make it first")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise StartError(f"{target} is there already, and is no empty folder: choose another one")


def _write(site: Path, name: str) -> None:
    for path in ALONG:
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, site / path, ignore=_LEFT_BEHIND)
        elif (ROOT / path).exists():
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, site / path)
    quoted = json.dumps(name, ensure_ascii=False)  # as Python and TOML have it, too
    in_site = {"site.name": quoted.replace("%", "%%"), "mount.lessons": None, "mount.lab": None}
    in_project = {"name": f'"{_distribution(name)}"', "version": '"0.1"', "description": quoted}
    _change("site.conf", site, {"/": in_site})
    _change("pyproject.toml", site, {"project": in_project, "dependency-groups": {"bench": None}})
    (site / "README.md").write_text(README.read_text(encoding="utf-8").replace("{name}", name), encoding="utf-8")


def _change(file: str, site: Path, sections: Mapping[str, Mapping[str, str | None]]) -> None:
    """Write a file of [sections] and `name = value` with other values, at the head of their section; None has none."""
    lines: list[str] = []
    values: Mapping[str, str | None] = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        key = _KEY.match(line)
        if line.startswith("["):
            values = sections.get(line.strip("[] "), {})
            lines += [line, *(f"{name} = {value}" for name, value in values.items() if value)]
        elif not (key and key[1] in values):
            lines.append(line)
    (site / file).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _distribution(name: str) -> str:
    """Return the name of the site for pip; it is not that of a package which the site needs."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub("[^a-z0-9]+", "-", plain).strip("-") or "site"
    taken = _LOCKED.findall((ROOT / "requirements-dev.txt").read_text(encoding="utf-8"))
    return f"{slug}-site" if slug in taken else slug


def _commit(site: Path) -> None:
    """Make the first commit, where git is there."""
    if not shutil.which("git"):
        return
    env = dict(os.environ)

    def git(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*_GIT, *words], cwd=site, env=env, capture_output=True, text=True)  # noqa: S603
        if check and done.returncode:
            raise StartError(f"git {words[-1]} failed: {' '.join(done.stderr.split())}")
        return done

    for name in git("rev-parse", "--local-env-vars").stdout.split():
        env.pop(name, None)  # of a repository that this runs in
    git("init")
    git("add", "--all", "--force")
    known = git("var", "GIT_COMMITTER_IDENT", check=False).returncode == 0
    git(*(() if known else ("-c", "user.name=app.py", "-c", "user.email=")), "commit", "--message", "Make the site")
