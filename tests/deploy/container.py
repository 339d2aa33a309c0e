"""The image, built by Debian's buildah as any engine builds it, and its containers: `make test-container`, as root.

Not a part of `make test`. Its base is a Debian with Python that debootstrap makes once and that stays in the cache of
the account. No engine runs here: what an engine does with the image (its command, account, volume and health check) is
read from the image and done by `buildah run`, in which processes share the network of this machine.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from services import free_port
from tests.support.backends import SECRET
from tests.support.client import JSON, Client
from tests.support.process import MOUNTED, ROOT, START_SECONDS, STOP_SECONDS, Process

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "cherrypy-sessions", "bookworm.tar")
STORE = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}  # what works in a container, too
NEEDLESS = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache/apt", "var/lib/apt/lists")
PIP = ("cert", "default-timeout", "index-url", "proxy", "trusted-host")  # what it is told here and needs there
# What lies around where an image is built, and has no place in it.
PRIVATE = (".env", ".git/config", "my.conf", "site.pem", "var/sessions/ab/record", "deploy/site.key", "tests/x.py")


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return what it printed; AssertionError when it fails."""
    ended = subprocess.run(command, env={**os.environ, **(env or {})}, capture_output=True, text=True)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-5000:]
    return ended.stdout


def base() -> Path:
    """Return a Debian with Python as a tar file; the first time takes a minute or two."""
    if not CACHE.exists():
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE.parent) as scratch:
            system, made = Path(scratch, "system"), Path(scratch, "made.tar")
            # What it mounts is gone with it, whatever becomes of it.
            run("unshare", "--mount", "debootstrap", "--variant=minbase", "--include=python3-venv", "bookworm", system)
            run("tar", "-C", system, *(f"--exclude=./{name}/*" for name in NEEDLESS), "-cf", made, ".")
            made.rename(CACHE)
    return CACHE


def pip_of_this_machine(folder: Path) -> list[str]:
    """Return the options of a build whose pip asks the package index that pip asks here."""
    lines = run(sys.executable, "-m", "pip", "config", "list").splitlines()
    told = {line.partition("=")[0].rpartition(".")[2]: ast.literal_eval(line.partition("=")[2]) for line in lines}
    (folder / "pip.conf").write_text(
        "\n".join(["[global]", *(f"{name} = {told[name]}" for name in PIP if name in told)])
    )
    files = {folder / "pip.conf": "/etc/pip.conf", **({told["cert"]: told["cert"]} if "cert" in told else {})}
    return [f"--volume={here}:{there}:ro" for here, there in files.items()]


class Image:
    """The image that the Dockerfile of the project makes, in a store of its own.

    Attributes:
        config: what it tells an engine.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        context, below = scratch / "context", scratch / "base"
        # A copy with what lies around: no stranger's clone, but the folder of somebody who works here.
        away = shutil.ignore_patterns(".git", ".venv*", ".wine", "var", ".*_cache")
        shutil.copytree(ROOT, context, symlinks=True, ignore=away)
        for name in PRIVATE:
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            (context / name).write_text("private")
        below.mkdir()
        shutil.copy(base(), below / "base.tar")
        (below / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
        self.buildah("bud", "--tag", "base", str(below))
        more = pip_of_this_machine(scratch)
        self.buildah("bud", "--format=docker", "--build-arg=BASE=localhost/base", *more, "--tag=site", str(context))
        self.config: dict[str, Any] = json.loads(self.buildah("inspect", "--type=image", "site"))["Docker"]["config"]

    def command(self, *words: str) -> list[str]:
        """Return a command of buildah on this store."""
        return ["buildah", f"--root={self.scratch}/storage", f"--runroot={self.scratch}/run", *words]

    def buildah(self, *words: str) -> str:
        """Run it to its end."""
        return run(*self.command(*words), env=STORE)


class Container(Process):
    """A new container of the image with a volume, which runs the command of the image.

    Args:
        volume: a folder, as the engine makes it for the image's VOLUME: it belongs to the image's account.
        env: what it is told, in the place of what the image says.
    """

    def __init__(self, image: Image, volume: Path, env: Mapping[str, str] | None = None) -> None:
        self.image, self.name = image, image.buildah("from", "--pull-never", "site").strip()
        (place,) = image.config["Volumes"]
        # Where buildah 1.28 makes a volume of its own for that of the image, chance says which of the two is seen.
        image.buildah("config", f"--volume={place}-", self.name)
        self.settings = {"HOST": "127.0.0.1", "PORT": str(free_port()), **MOUNTED, **(env or {})}
        self.options = [f"--volume={volume}:{place}:rw"]
        if MOUNTED:  # the pages of the tests, in a site without lessons
            self.options += [f"--volume={ROOT}/tests:/site/tests:ro"]
        self.options += [f"--env={name}={value}" for name, value in self.settings.items()]
        command = image.command("run", *self.options, self.name, "--", *image.config["Cmd"])
        super().__init__(command, env=STORE, url=f"http://127.0.0.1:{self.settings['PORT']}")

    def client(self) -> Client:
        """Return somebody who comes through a proxy of this machine, by https."""
        return Client(self.url, headers={**JSON, "X-Forwarded-Proto": "https"})

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it to its end."""
        command = self.image.command("run", *self.options, self.name, "--", *words)
        return subprocess.run(command, env=self.variables(), capture_output=True, text=True, timeout=START_SECONDS)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Send the signal to the process of the site, as an engine does, and return its exit status."""
        pid = str(self.process.pid)
        while children := [
            child for thread in Path("/proc").glob(f"{pid}/task/*/children") for child in thread.read_text().split()
        ]:
            (pid,) = children  # of buildah, of its process in the container
        os.kill(int(pid), signum)
        return self.process.wait(STOP_SECONDS)

    def close(self) -> None:
        """Stop and remove it."""
        super().close()
        self.image.buildah("rm", self.name)


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The image."""
    with tempfile.TemporaryDirectory(prefix="sessions-image-", dir="/var/tmp") as scratch:  # noqa: S108 -- a disk
        yield Image(Path(scratch))


@pytest.fixture
def volume(image: Image, tmp_path: Path) -> Path:
    """An empty volume."""
    path = tmp_path / "var"
    path.mkdir()
    os.chown(path, *map(int, image.config["User"].split(":")))
    return path


def test_it_answers_counts_and_goes_on_counting_in_a_new_container_with_the_same_volume(
    image: Image, volume: Path
) -> None:
    with Container(image, volume) as first:
        visitor = first.client()
        health = visitor.get("/healthz")
        assert (health.status, health.json) == (200, {"status": "ok", "profile": "file"})
        counts = [visitor.get("/counter") for _ in range(3)]
        assert [answer.json["count"] for answer in counts] == [1, 2, 3]
        (line,) = counts[0].set_cookie
        assert line.startswith("__Host-session_id=") and "; Secure" in line
        assert first.stop() == 0, first.output()
    with Container(image, volume) as second:
        later = second.client()
        later.cookies = visitor.cookies
        assert later.get("/counter").json["count"] == 4


def test_the_health_check_of_the_image_tells_whether_the_site_answers(image: Image, volume: Path) -> None:
    kind, *command = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    with Container(image, volume) as container:
        assert container.run(*command).returncode == 0
        assert container.stop() == 0
        silent = container.run(*command)
    assert silent.returncode == 1 and "/healthz does not answer" in silent.stderr and "Traceback" not in silent.stderr


def test_an_operator_finds_the_sessions_in_it(image: Image, volume: Path) -> None:
    with Container(image, volume) as container:
        assert container.client().get("/counter").status == 200
        _, _, *options = image.config["Cmd"]
        listed = container.run("python", "-m", "sessions", "list", "--json", *options)
        assert listed.returncode == 0 and len(json.loads(listed.stdout)) == 1, listed


def test_the_secret_comes_from_the_environment(image: Image, volume: Path) -> None:
    with pytest.raises(AssertionError, match="SESSION_SECRET"):
        Container(image, volume, {"PROFILE": "cookie"})
    with Container(image, volume, {"PROFILE": "cookie", "SESSION_SECRET": SECRET}) as container:
        visitor = container.client()
        assert [visitor.get("/counter").json["count"] for _ in range(2)] == [1, 2]


# What anybody may write to in Debian, and the volume.
OPEN = ("/dev", "/proc", "/run/lock", "/tmp", "/var/tmp", "/site/var")  # noqa: S108


def test_nothing_in_it_is_private_or_builds_and_only_the_volume_can_be_written(image: Image, volume: Path) -> None:
    others = " ".join(f"-not -path '{path}' -not -path '{path}/*'" for path in OPEN)
    tools = ("pip", "pip3", "uv", "make", "cc", "gcc", "git")
    with Container(image, volume) as container:
        listed = container.run("find", "/site", "-type", "f", "-not", "-path", "/site/.venv/*").stdout.split()
        writable = container.run("sh", "-c", f"find / -xdev -writable -not -type l {others}").stdout.split()
        have = container.run("sh", "-c", f"id -un; command -v {' '.join(tools)}").stdout.split()
        bytecode = container.run("sh", "-c", "ls sessions/__pycache__").stdout
    assert "/site/app.py" in listed and "session." in bytecode
    assert {f"/site/{name}" for name in PRIVATE} & {*listed} == set()
    assert (writable, have) == ([], ["site"])
