"""Code on a page, in the colours of static/code.css."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pygments
from markupsafe import Markup
from pygments.formatters.html import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Keyword, Name, Number, Operator, String, Text, _TokenType

# What static/code.css gives a look. Every other kind of token stays plain text: with an element around each bracket
# and each name, the source of a page would be three times as long.
_SHOWN = (Comment, String.Doc, String, Number, Keyword, Operator.Word, Name.Decorator, Name.Function, Name.Class,
          Name.Tag)  # fmt: skip
_FORMATTER = HtmlFormatter(nowrap=True, classprefix="t-")


@functools.lru_cache(maxsize=256)
def highlighted(code: str, language: str) -> Markup:
    """Return code, without the end of its last line, as HTML for a <pre> or <code>; its classes are in static/code.css.

    language is one of Pygments' short names: "python", "bash", "json". Raises pygments.util.ClassNotFound for another.
    Call it with what the site says, not with what a visitor sends: it takes time, and the answers are kept.
    """
    lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    html = pygments.format(_tokens(lexer, code), _FORMATTER)
    return Markup(html.rstrip("\n"))  # noqa: S704 - Pygments escapes the text of each token


def _tokens(lexer: Lexer, code: str) -> Iterator[tuple[_TokenType, str]]:
    for kind, text in lexer.get_tokens(code):
        yield next((shown for shown in _SHOWN if kind in shown), Text), text
