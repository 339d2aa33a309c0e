"""`python -m sessions convert`: the configuration of an older CherryPy, in the words of today.

The lines keep their order and their comments. What stands for the whole site ([global], and the sections of 0.9 to 2.0)
goes into [/]. What only a person can convert stays as a comment, and sessions are in memory until that is done.
"""

from __future__ import annotations

import ast
import math
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from itertools import dropwhile
from typing import Any, NamedTuple

import cherrypy
from cherrypy.lib import reprconf

from .errors import ConfigError
from .old_names import TODAY, find, names_of_sessions
from .options import COMMON, is_accepted
from .registry import BACKENDS, known_options

_COMMENT = re.compile(r"\s*(?:[#;].*|rem(?:\s.*)?)?", re.IGNORECASE)  # `rem` was one in Python 2
_SECTION = re.compile(r"\[([^\]]+)\]\s*(?:[#;].*)?")
_OPTION = re.compile(r"([^\s:=\[][^:=]*?)\s*[:=]\s*(.*)")
_VALUE = re.compile(r"""((?:"[^"]*"|'[^']*'|[^"'#])*?)(?:\s*#\s*(.*)|\s+;\s*(.*))?""")  # and a comment behind it
_RAW = ("session", "server")  # sections of 0.9 to 2.0, whose values are raw text
_NUMBERS = (ast.Expression, ast.BinOp, ast.Add, ast.Mult, ast.Constant)  # such as 24 * 60, which old files have
# What a storage needs, and what to write where the old file leaves it out; None where only a person knows.
_NEEDS = {
    "file": ("storage_path", ".sessiondata"), "memcached": ("servers", "127.0.0.1:11211"), "cookie": ("secret", ""),
    "postgresql": ("dsn", None), "functions": ("load", None),
}  # fmt: skip


class _Source(str):
    """A value that is an expression, such as a name of the site's own: it is printed as it was written."""

    __slots__ = ()
    __repr__ = str.__str__


class _Line(NamedTuple):
    """A line of the old file, with its continuation lines; `name` is empty for a section, a comment, an empty line."""

    number: int
    section: str
    text: str
    name: str = ""
    value: str = ""
    comment: str = ""


class _New(NamedTuple):
    """A line of the new file; `option` is empty for a comment. Of those that set the same, the highest rank holds,
    which begins with 0 where it has nothing to do with sessions."""

    section: str
    option: str
    value: Any
    text: str
    rank: tuple[int, int] = (0, 0)


def convert(text: str) -> tuple[str, list[str]]:
    """Return a configuration in the words of today, and what a person has to decide.

    Raises:
        ConfigError: the text is no configuration.
    """
    return _Conversion(_parsed(text)).result()


def _parsed(text: str) -> list[_Line]:
    lines, section, last = list[_Line](), "", -1  # `last`: where the last option is, if a section has not ended it
    for number, line in enumerate(text.splitlines(), 1):
        if _COMMENT.fullmatch(line):
            lines.append(_Line(number, section, f"# {line}" if re.match(r"\s*rem\b", line, re.IGNORECASE) else line))
        elif found := _SECTION.fullmatch(line.rstrip()):
            section, last = found[1], -1
            lines.append(_Line(number, section, line))
        elif line[0].isspace() and last >= 0:
            more = "".join(f"\n{one}" for one in (*(between.text for between in lines[last + 1 :]), line))
            whole = _OPTION.fullmatch(lines[last].text.split("\n")[0])
            value = f"{lines[last].value}\n{line}" if "\n" in lines[last].text else f"{whole and whole[2]}{more}"
            lines[last:] = [lines[last]._replace(text=lines[last].text + more, value=value, comment="")]
        elif section and (found := _OPTION.fullmatch(line.strip())):
            last = len(lines)
            parts = _VALUE.fullmatch(found[2])
            value, comment = (parts[1], parts[2] or parts[3] or "") if parts else (found[2], "")
            lines.append(_Line(number, section, line.strip(), found[1], value.strip(), comment))
        else:
            what = "no option, section or comment" if section else "before any section"
            raise ConfigError(f"this is no configuration: line {number} is {what}")
    if not section:
        raise ConfigError("this is no configuration: it has no section")
    return lines


def _value(text: str, raw: bool) -> Any:
    """Return a value of the old file: raw text up to 2.0, a Python expression since."""
    if raw:
        return text.strip("\"'")
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        tree = _parse(text)
        if tree and all(isinstance(node, _NUMBERS) for node in ast.walk(tree)):
            with suppress(TypeError):  # two that cannot be added
                return reprconf.unrepr(text)
        return _Source(text) if tree else text


def _parse(text: str) -> ast.Expression | None:
    try:
        return ast.parse(f"({text}\n)", mode="eval")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _is_known(name: str, text: str) -> bool:
    """Return whether CherryPy 18 takes a line that has nothing to do with sessions as it is."""
    space, _, bare = name.partition(".")
    if space.lower().endswith("filter") or name in cherrypy.checker.obsolete or not _parse(text):
        return False
    return space != "server" or "." in bare or hasattr(cherrypy.server, bare)


def _kind(storage: Any) -> str:
    return str(storage).rpartition(".")[2].lower().removesuffix("session")


def _commented(text: str) -> str:
    return "\n".join(f"# {line}" for line in text.split("\n"))


class _Conversion:
    def __init__(self, lines: list[_Line]) -> None:
        names = {line.section for line in lines}
        self.lines, self.raw = lines, "global" not in names and not names.isdisjoint(_RAW)
        self.old: dict[str, dict[str, Any]] = {name: {} for name in names}
        for line in (line for line in lines if line.name):
            self.old[line.section][line.name] = _value(line.value, self.raw)
        self.named = names_of_sessions(self.old)
        self.begun = {one["sessionFilter.new"]: name for name, one in self.old.items() if "sessionFilter.new" in one}
        everything = [item for one in self.old.values() for item in one.items()]
        today = {name.removeprefix(TODAY): value for name, value in everything if name.startswith(TODAY)}
        own = str(today.get("storage_class", "")).rpartition(".")[0] not in ("", "cherrypy.lib.sessions", "sessions")
        self.any_option = own or _kind(today.get("storage_type", "ram")) not in BACKENDS
        self.known = today.keys()
        self.filters = set[str]()  # which CherryPy has the names of its filter that are here
        self.remarks = list[tuple[float, str]]()  # by line; what concerns the whole file comes last

    def result(self) -> tuple[str, list[str]]:
        """Return the new text, and the remarks."""
        new = {line.number: list(self._today(line)) for line in self.lines if line.name}
        best: dict[tuple[str, str], tuple[int, int]] = {}
        for one in (one for made in new.values() for one in made if one.option):
            best[one.section, one.option] = max(one.rank, best.get((one.section, one.option), (0, 0)))
        here, comments, out = "", list[str](), {"": list[str]()}
        for line in self.lines:
            if line.name:
                for one in new[line.number]:
                    text = one.text
                    if one.option and one.rank < best[one.section, one.option]:
                        text = _commented(text)
                        self._remark(line, "another line says it too, and counts")
                    if one.section not in out:
                        out[one.section] = [f"[{one.section}]"]
                        comments = list(dropwhile(lambda comment: not comment.strip(), comments))
                    out[one.section] += [*comments, text]
                    comments = []
            elif _COMMENT.fullmatch(line.text):
                comments.append(line.text)
            else:
                here = self._place(line)
                out.setdefault(here, []).extend(comments)
                if f"[{here}]" not in map(str.strip, out[here]):
                    out[here].append(f"[{here}]")
                out[here] += [f"# {line.text}"] if here != line.section else []
                comments = []
        out[here] += comments
        more = list(self._completed({one.option: one.value for made in new.values() for one in made if one.rank[0]}))
        if more:
            out.setdefault("/", ["[/]"]).extend(more)
        texts = ["\n".join(lines).strip("\n") for lines in out.values()]
        return "\n\n".join(filter(None, texts)), [text for _, text in sorted(self.remarks, key=lambda one: one[0])]

    def _remark(self, line: _Line, text: str) -> None:
        self.remarks.append((line.number, f"line {line.number}: {line.name}: {text.replace('`', '')}"))

    def _place(self, line: _Line) -> str:
        return "/" if line.section in _RAW or (self.raw and line.section[0] != "/") else line.section

    def _today(self, line: _Line) -> Iterator[_New]:
        """Return what a line that sets something becomes."""
        found = find(f"{line.section}.{line.name}" if line.section in _RAW else line.name, self.named)
        space, _, bare = line.name.rpartition(".")
        if not found and space != "tools.sessions":
            yield self._other(line)
            return
        value, row = _value(line.value, self.raw), found[0] if found else None
        options = row.value_today(value) if row else {}
        if isinstance(value, _Source) and value not in options.values():  # what it stands for is unknown
            options = {}
        if not options and space == "tools.sessions" and (self.any_option or bare in COMMON | known_options()):
            options = {bare: value}
        if found and space.startswith(("sessionFilter", "session_filter")):
            self.filters.add(found[1])
        section = self.begun.get(space.rpartition(".")[2], line.section)
        section = section if section[0] == "/" else "/"
        if not options:
            yield _New(section, "", None, _commented(line.name if row and "siteKey" in row.names else line.text))
            self._remark(line, row.in_words("/", value) if row else "no option of sessions, and without effect on them")
        elif row and row.decide and options.get("clean_freq") not in range(60):  # these can be no seconds
            self._remark(line, row.remark)
        for option, one in options.items():
            text = f"{TODAY}{option} = {one!r}" + (f"  # {line.comment}" if line.comment else "")
            rank = (8 * (line.section == "/") + self._rank(space), line.number)
            text = line.text if (space, bare, repr(value)) == ("tools.sessions", option, repr(one)) else text
            if why := self._undecided(option, one):
                self._remark(line, f"{why}; {row.remark}" if row and row.remark and not row.decide else why)
                yield _New(section, "", None, _commented(text))
            else:
                yield _New(section, option, one, text, rank)

    def _other(self, line: _Line) -> _New:
        if self._place(line) == line.section and not self.raw and _is_known(line.name, line.value):
            return _New(line.section, line.name, None, line.text, (0, line.number))
        self._remark(line, "no option of sessions, and unknown to CherryPy 18: a comment now")
        return _New(self._place(line), "", None, _commented(line.text))

    def _undecided(self, option: str, value: Any) -> str:
        """Return why an option has to wait for a person, or nothing."""
        needs, default = _NEEDS.get(_kind(value), ("", "")) if option.startswith("storage_") else ("", "")
        if default is None and needs not in self.known:
            return f"{value!r} needs {TODAY}{needs}, which only you can write; until then sessions are in memory"
        if not isinstance(value, _Source) and not is_accepted(option, value):
            return f"{value!r} cannot be the value of {TODAY}{option}"
        return ""

    def _rank(self, space: str) -> int:
        """Of two spellings in one section that of 2.1 counted, and before both that of a session's own name."""
        if space.startswith("sessionFilter."):
            return 4 if space == "sessionFilter.default" else 1
        return 3 if space == "sessionFilter" else 5 if space in self.named else 2

    def _completed(self, options: dict[str, Any]) -> Iterator[str]:
        """Return the lines for what was the default once, or is required now."""
        locking = find("sessionFilter.locking")
        early = [version for version in self.filters if "alpha" in version or "beta" in version]
        if locking and self.filters and not early and "locking" not in options:
            self.remarks.append((math.inf, f"locking: {locking[0].remark}".replace("`", "")))
            yield f"{TODAY}locking = 'explicit'"
        for storage in (options.get("storage_class"), options.get("storage_type")):
            needs, default = _NEEDS.get(_kind(storage), ("", None))
            if default is not None and needs not in options:
                self.remarks.append((math.inf, f"{TODAY}{needs} was not there: see whether the new one is right"))
                yield f"{TODAY}{needs} = {default or secrets.token_urlsafe(32)!r}"
        if options:
            self.remarks.append((math.inf, "stored sessions of the old site are not read: everybody begins anew"))
