"""Commands and what they print, as the README, the lessons and the plan for teaching show them: run, and compared."""

from __future__ import annotations

import html
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

Step = tuple[str, str]  # a command, and what it prints

# What differs from run to run; a page shows the first three as … where it would show them. All else of an output is
# compared as it stands, but for spaces at the end of a line.
VARYING = {
    r"session_id=[\w=-]{43,}": "session_id=…",
    r"reference [0-9a-f]{8}": "reference …",
    r'"reference": "[0-9a-f]{8}"': '"reference": "…"',
    r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT": "DATE",
}


def masked(text: str) -> list[str]:
    """The lines of an output without what differs from run to run."""
    for pattern, name in VARYING.items():
        text = re.sub(pattern, name, text)
    return [line.rstrip() for line in text.rstrip().splitlines()]


def in_console(text: str) -> list[Step]:
    """The steps of a text as a console shows it: a line with a $ before it, and what follows."""
    return re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)


def on_page(page: str) -> list[list[Step]]:
    """The transcripts of a page, each a list of steps."""
    return [
        [
            (_text(command), _text(output or ""))
            for command, output in re.findall(
                r"<code data-copy>(.*?)</code>(?:\s*<samp>(.*?)</samp>)?", listed, re.DOTALL
            )
        ]
        for listed in re.findall(r'<ol class="transcript">(.*?)</ol>', page, re.DOTALL)
    ]


def _text(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", markup))


def check(steps: Sequence[Step], folder: Path, environ: Mapping[str, str], shown: str = "", real: str = "") -> None:
    """Run the commands with a shell in the folder, one after the other.

    shown and real are the address of the site in the text, and the one that it really has.
    Raises AssertionError for the first that prints anything else than the text says.
    """
    assert steps
    for command, expected in steps:
        typed = command.replace(shown, real) if shown else command
        result = subprocess.run(
            ["/bin/sh", "-c", typed], cwd=folder, env=dict(environ), capture_output=True, text=True, timeout=60
        )
        printed = result.stdout.replace(real, shown) if shown else result.stdout
        assert masked(printed) == masked(expected), command
        assert result.stderr == "", command
