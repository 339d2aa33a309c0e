"""What only a site in development gets, that is without --production and on an address of this machine alone."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from web.settings import SITE_CONF, Sections, Source, StartError, find_profiles, load_settings, one_line, read


def development_secret() -> str:
    """Return the secret of this user's cookie sessions in development, made the first time it is asked for.

    It lies outside the project, so that no copy and no commit takes it along. Raises StartError.
    """
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "cherrypy-sessions-demo"
    path, new = folder / "secret", folder / f"secret.{os.getpid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            with open(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(48))
            with contextlib.suppress(FileExistsError):  # of two sites started at once, the second takes the first's
                os.link(new, path)
            new.unlink()
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise StartError(f"others can read the secret in {path}; remove it, and a new one is made")
        return path.read_text(encoding="ascii")
    except (OSError, RuntimeError) as error:
        raise StartError(f"no secret can be kept in {folder}: {one_line(error)}; set SESSION_SECRET") from error


def session_options(config: Source, environ: Mapping[str, str]) -> Sections:
    """Return the session tool's options under each profile, to see which of them could run here. Raises StartError."""
    prefix = "tools.sessions."
    profiles: Sections = {}
    for name in find_profiles(read(SITE_CONF), read(config)):
        options = load_settings(name, config, environ)["/"]
        profiles[name] = {key.removeprefix(prefix): value for key, value in options.items() if key.startswith(prefix)}
        if profiles[name].get("secret") == "":
            profiles[name]["secret"] = secrets.token_urlsafe(48)
    return profiles
