"""The files for containers, and what a team needs on its first day: their syntax, and that all of them say the same.

What reads most of them is not here (an engine, GitHub, an editor). So each is parsed, and what it names, starts and
sets is compared with what is there: the Procfile, the Makefile, the settings, HAProxy's file. `container.py` builds the
image; compose.yaml, the workflow and the dev container were never run by these tests.
"""

from __future__ import annotations

import configparser
import fnmatch
import ipaddress
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from honcho import environ

from tests.support.client import Client
from tests.support.process import ROOT, installed
from tests.support.site import Site
from web.production import check, check_server
from web.settings import ENVIRONMENT, SITE_CONF, find_profiles, load_settings, read

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BEHIND_PROXY = ROOT / "deploy" / "behind-proxy.conf"
VARIABLES = {*ENVIRONMENT, "PROFILE"}  # of the site
PROFILES = find_profiles(read(SITE_CONF))
OLDEST = int(PROJECT["project"]["requires-python"].removeprefix(">=3."))  # of the Pythons that will do
EXAMPLE = (ROOT / ".env.example").read_text()
NAMED = re.findall(r"^(\w+)=", EXAMPLE, re.MULTILINE)
NOT_OURS = (".git", ".venv*", ".wine", "var", ".*_cache", "__pycache__", "*.egg-info", "build")  # or made
BINARY = ("*.png", "*.ico", "*.woff2", "*.pyc", "*.sqlite")
TARGETS = {
    target
    for path in [ROOT / "Makefile", *ROOT.glob("*/targets.mk")]
    for target in re.findall(r"^([\w-]+):", path.read_text(), re.MULTILINE)
}


def parsed(name: str) -> Any:
    """Return what a file of YAML says."""
    return yaml.safe_load((ROOT / name).read_text())


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments."""
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", dockerfile, flags=re.MULTILINE)).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines) if word]


DOCKERFILE = instructions((ROOT / "Dockerfile").read_text())
COMPOSE = parsed("compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SITES = {name: service for name, service in SERVICES.items() if "build" in service}


def the(instruction: str) -> str:
    """Return the arguments of an instruction that the Dockerfile has once."""
    (rest,) = [rest for word, rest in DOCKERFILE if word == instruction]
    return rest


def production(command: str) -> list[str]:
    """Return the words that start the site in production, without the path of Python and the address to listen on."""
    words = shlex.split(command)
    place = words.index("app.py")
    assert Path(words[place - 1]).name == "python"
    words = words[place:]
    return words[: words.index("--host")] if "--host" in words else words


PROCFILE = production((ROOT / "Procfile").read_text().removeprefix("web: "))


# --- the image --------------------------------------------------------------------------------------------------------


def test_the_image_starts_what_the_procfile_starts() -> None:
    assert production(shlex.join(json.loads(the("CMD")))) == PROCFILE
    assert [word for word, _ in DOCKERFILE if word == "ENTRYPOINT"] == []


def test_the_base_of_the_image_is_an_argument_and_a_public_image_with_a_python_that_will_do() -> None:
    argument, _, default = the("ARG").partition("=")
    assert [rest.split()[0] for word, rest in DOCKERFILE if word == "FROM"] == [f"${{{argument}}}"] * 2
    (version,) = re.findall(r"^docker\.io/library/python:3\.(\d+)-slim-", default)
    assert int(version) >= OLDEST


def test_the_image_installs_the_locked_packages_with_their_hashes_as_wheels() -> None:
    (install,) = [rest for word, rest in DOCKERFILE if word == "RUN" and " install --only-binary" in rest]
    assert "--require-hashes --requirement /requirements.txt" in install and "--only-binary :all:" in install
    assert ("COPY", "requirements.txt /") in DOCKERFILE


def test_the_image_has_an_account_a_volume_and_a_health_check_and_no_secret() -> None:
    user, _, group = the("USER").partition(":")
    assert int(user) == int(group) > 0 and any(f"useradd --uid {user} --user-group " in rest for _, rest in DOCKERFILE)
    assert the("VOLUME") == f"{the('WORKDIR')}/var"
    python, program = json.loads(the("HEALTHCHECK").partition(" CMD ")[2])
    assert python == "python" and (ROOT / program).is_file()
    set_here = dict(word.partition("=")[::2] for word in shlex.split(the("ENV")))
    assert set_here.keys() == {"PATH", "HOST", "PORT"} and set_here["PORT"] == the("EXPOSE")


# --- compose.yaml -----------------------------------------------------------------------------------------------------


def test_every_profile_of_compose_has_the_services_that_it_needs() -> None:
    profiles = {profile for service in SERVICES.values() for profile in service["profiles"]}
    assert profiles == {"site", "postgresql", "memcached"}
    heading = (ROOT / "compose.yaml").read_text().partition("x-logs")[0]
    assert re.findall(r"^#   (\w+)  ", heading, re.MULTILINE) == ["site", "postgresql", "memcached"]
    for name, service in SERVICES.items():
        needed = {*service.get("depends_on", ()), *filter(None, [service.get("network_mode", "").partition(":")[2]])}
        for other in needed:
            assert {*service["profiles"]} <= {*SERVICES[other]["profiles"]}, (name, other)


def told(service: str) -> dict[str, str]:
    """Return the environment of a service, where .env is a copy of the example."""
    env = environ.parse(EXAMPLE)
    given = SERVICES[service]["environment"].items()
    return {
        name: re.sub(r"\$\{(\w+):-(.*?)\}", lambda found: env.get(found[1]) or found[2], str(value))
        for name, value in given
    }


@pytest.mark.parametrize("name", SITES)
def test_a_site_of_compose_starts_in_production_with_what_it_is_told(name: str) -> None:
    variables = told(name)
    assert variables.keys() <= VARIABLES and "command" not in SITES[name], "it has the image's own"
    settings = load_settings(None, str(BEHIND_PROXY), variables, True)
    check(settings, variables)
    check_server(settings)
    assert settings["/"]["profile"] == variables["PROFILE"] == (SITES[name]["profiles"] + ["file"])[name == "site"]
    ends = settings["global"]["server.drain"] + settings["global"]["server.shutdown_timeout"]
    assert int(SITES[name]["stop_grace_period"].removesuffix("s")) > ends


def test_a_site_alone_is_published_on_this_machine_and_trusts_the_machine_alone() -> None:
    (network,) = COMPOSE["networks"]["default"]["ipam"]["config"]
    assert SITES["site"]["ports"] == [f"127.0.0.1:${{PORT:-8080}}:{the('EXPOSE')}"]
    trusted = told("site")["TRUSTED_PROXIES"]
    assert ipaddress.ip_address(trusted) == ipaddress.ip_network(network["subnet"])[1], "the engine takes the first"


@pytest.mark.parametrize("profile", ["postgresql", "memcached"])
def test_two_sites_are_where_haproxy_looks_and_find_their_store(profile: str) -> None:
    sites = {name: told(name) for name, service in SITES.items() if service["profiles"] == [profile]}
    at = [f"{site['HOST']}:{site['PORT']}" for site in sites.values()]
    assert at == re.findall(r"^    server \w+ (\S+)", (ROOT / "deploy" / "haproxy.cfg").read_text(), re.MULTILINE)
    for name, site in sites.items():
        assert SITES[name]["network_mode"] == "service:haproxy", "the proxy that a site trusts by default"
        store = {"postgresql": "database", "memcached": "cache"}[profile]
        address = site[{"postgresql": "DATABASE_URL", "memcached": "MEMCACHED_SERVERS"}[profile]]
        assert re.search(rf"(^|@){store}\b", address)
        assert store in SITES[name]["depends_on"] and SERVICES[store]["profiles"] == [profile]


def test_the_database_of_compose_is_the_one_that_the_sites_are_told() -> None:
    made = SERVICES["database"]["environment"]
    url = "postgresql://{POSTGRES_USER}:{POSTGRES_PASSWORD}@database/{POSTGRES_DB}".format(**made)
    assert SERVICES["postgresql-one"]["environment"]["DATABASE_URL"] == url


def test_every_file_that_compose_mounts_is_there_and_haproxy_reads_what_is_mounted() -> None:
    mounted = [volume for service in SERVICES.values() for volume in service.get("volumes", ())]
    pairs = [
        (volume["source"], volume["target"]) if isinstance(volume, dict) else volume.replace(":-", "=").split(":")[:2]
        for volume in mounted
    ]
    for source, _ in pairs:
        source = re.sub(r"^\$\{\w+(?:=|:-)(.*)\}$", r"\1", source)
        assert source in COMPOSE["volumes"] or (ROOT / source).is_file() or source == "./var/site.pem", source
    named = {word for word in SERVICES["haproxy"]["command"] if word.startswith("/")}
    named |= set(re.findall(r" crt (\S+)", (ROOT / "deploy" / "haproxy.cfg").read_text()))
    assert named == {target for _, target in pairs if target.startswith("/etc/haproxy/")}
    assert f"{the('WORKDIR')}/deploy/behind-proxy.conf" in {target for _, target in pairs}


def test_haproxy_takes_both_of_its_files_with_the_certificate_that_is_made_for_a_look(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    text = (ROOT / "compose.yaml").read_text()
    lines = re.findall(r"^#   ((?:openssl|cat) .*)$", text, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        subprocess.run(["/bin/sh", "-c", line], cwd=tmp_path, check=True, capture_output=True)
    changed = (
        (ROOT / "deploy" / "haproxy.cfg").read_text().replace("/etc/haproxy/site.pem", str(tmp_path / "var/site.pem"))
    )
    (tmp_path / "haproxy.cfg").write_text(changed)
    files = [word for name in ("haproxy.cfg", "haproxy-stdout.cfg") for word in ("-f", f"/etc/haproxy/{name}")]
    assert SERVICES["haproxy"]["command"] == ["haproxy", *files]
    command = [
        installed("haproxy"),
        "-c",
        "-f",
        str(tmp_path / "haproxy.cfg"),
        "-f",
        str(ROOT / "deploy/haproxy-stdout.cfg"),
    ]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, ""), checked


def test_logs_are_rotated_and_privileges_are_gone_in_every_container() -> None:
    for name, service in SERVICES.items():
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert service["restart"] == "unless-stopped", name
        if name != "database":  # it begins as root, and gives its folder away
            assert service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"], name
    assert all(site["read_only"] for site in SITES.values())


# --- .env.example -----------------------------------------------------------------------------------------------------


def test_the_example_names_all_that_compose_asks_for_and_nothing_unknown() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text())) - {"PORT"}
    own = {"SITE_CONF", "CERTIFICATE", "POSTGRES_PASSWORD"}
    assert asked <= {*NAMED} and {*NAMED} - VARIABLES == own and own <= asked
    assert len(NAMED) == len({*NAMED})


def test_the_example_has_no_secret_in_it_and_starts_the_site_as_it_is() -> None:
    filled = environ.parse(EXAMPLE)
    assert filled == {"PROFILE": "file", "HOST": "127.0.0.1"}
    settings = load_settings(None, str(BEHIND_PROXY), filled, True)
    assert settings["/"]["profile"] == "file" and settings["global"]["server.socket_host"] == "127.0.0.1"
    assert [line for line in EXAMPLE.splitlines() if line and not re.fullmatch(r"#.*|\w+=[^\s\"'$#]*", line)] == []


def test_the_proxies_that_the_environment_names_are_trusted_and_no_others() -> None:
    command = f"{shlex.quote(sys.executable)} {shlex.join(PROCFILE)}"
    env = {"PROFILE": "ram", "HOST": "127.0.0.1", "TRUSTED_PROXIES": "127.0.0.9, 192.0.2.0/24"}
    with Site(command=command, env=env) as site:
        answers = {
            address: Client(site.url, headers={"X-Forwarded-Proto": "https"}, address=address).get("/login")
            for address in ("127.0.0.1", "127.0.0.9")
        }
    by_https = {address: "strict-transport-security" in answer.headers for address, answer in answers.items()}
    assert by_https == {"127.0.0.1": False, "127.0.0.9": True}


# --- what a team adds -------------------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, str]]:
    """Yield every command of these files, with the file."""
    for job in parsed(".github/workflows/ci.yml")["jobs"].values():
        for step in job["steps"]:
            yield from [("ci.yml", step["run"])] if "run" in step else []
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    yield from (("devcontainer.json", value) for name, value in container.items() if name.endswith("Command"))
    for repository in parsed(".pre-commit-config.yaml")["repos"]:
        assert repository["repo"] == "local", "no other programs than those that are locked"
        yield from ((".pre-commit-config.yaml", hook["entry"]) for hook in repository["hooks"])


def test_every_command_is_one_that_is_there() -> None:
    for file, command in commands():
        program, *words = shlex.split(command)
        if program == "make":
            assert words[0] in TARGETS, (file, command)
        elif program == "python":
            named = [word for word in words if re.search(r"\.(py|txt)$|^tests/", word)]
            assert all((ROOT / name).exists() for name in named), (file, command)
        else:
            assert program == "docker" and (ROOT / "Dockerfile").exists(), (file, command)


def test_the_workflow_runs_what_the_readme_and_the_other_script_of_ci_run() -> None:
    ours = {command for file, command in commands() if file == "ci.yml"}
    script = set(re.findall(r"^make .*$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE))
    assert {"make check", "make test"} <= script & ours
    assert all(command in (ROOT / "README.md").read_text() for command in ("make test", "make run"))


def test_the_workflow_tries_every_system_and_every_python_from_the_oldest_that_is_supported() -> None:
    jobs = parsed(".github/workflows/ci.yml")["jobs"]
    versions = jobs["debian"]["strategy"]["matrix"]["python"]
    assert versions == [f"3.{minor}" for minor in range(OLDEST, OLDEST + len(versions))] and len(versions) > 1
    assert {job["runs-on"].partition("-")[0] for job in jobs.values()} == {"ubuntu", "macos", "windows"}
    assert parsed(".github/workflows/ci.yml")["permissions"] == {"contents": "read"}


def test_dependabot_looks_where_there_is_something() -> None:
    looked_at = {
        "pip": "requirements.txt", "github-actions": ".github/workflows/ci.yml", "docker-compose": "compose.yaml",
        "devcontainers": ".devcontainer/devcontainer.json",
    }  # fmt: skip
    updates = parsed(".github/dependabot.yml")["updates"]
    assert [update["package-ecosystem"] for update in updates] == [*looked_at]
    assert all(update["directory"] == "/" for update in updates)
    assert all((ROOT / path).is_file() for path in looked_at.values())


def test_the_dev_container_shows_the_port_of_the_site() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    port = read(SITE_CONF)["global"]["server.socket_port"]
    assert container["forwardPorts"] == [port] and [*container["portsAttributes"]] == [str(port)]


def ours(folder: Path = ROOT) -> Iterator[Path]:
    """Yield the text files of the project."""
    for path in sorted(folder.iterdir()):
        if not any(fnmatch.fnmatch(path.name, pattern) for pattern in (*NOT_OURS, *BINARY)):
            yield from ours(path) if path.is_dir() else [path]


def test_every_file_is_as_the_editor_is_told() -> None:
    rules = configparser.ConfigParser()
    rules.read_string(f"[top]\n{(ROOT / '.editorconfig').read_text()}")
    everywhere = rules["*"]
    assert (everywhere["charset"], everywhere["end_of_line"]) == ("utf-8", "lf")
    assert everywhere.getboolean("insert_final_newline") and everywhere.getboolean("trim_trailing_whitespace")
    assert rules["*.py"].getint("max_line_length") == PROJECT["tool"]["ruff"]["line-length"]
    files = [*ours()]
    assert len(files) > 100
    for path in files:
        text = path.read_bytes().decode("utf-8")
        assert "\r" not in text and (not text or text.endswith("\n")), path
        assert not re.search(r"[ \t]$", text, re.MULTILINE), path
