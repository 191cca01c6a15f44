r"""Text that is not ours in Markdown: it shows as it is, whatever marks stand in it.

For CommonMark, for GitHub, and for showdown, which renders the notes of MLflow's runs. A mark gets
a backslash where it would be read as one, or is an entity where one of them ignores the backslash.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from pipeline.system.text import printable, running

# An underscore within a word is no mark.
_MARK = re.compile(r"[\\`*\[\]|~>]|(?<![^\W_])_|_(?![^\W_])|(?<=www)\.", re.IGNORECASE)
# `$` begins mathematics, a colon an emoji or what follows a link's scheme, `@` a person's name.
_ENTITY = re.compile(r"[<$#@]|&(?=[#\w])|:(?=//|[\w+-]+:)")
# Of a list, or of the line under a heading.
_FIRST = re.compile(r"^(?:(?=[-+=](?![\w.]))|[0-9]+(?=[.)](?:\s|$)))")


def inline(text: str) -> str:
    """The text as part of a line of Markdown, as a cell or a heading; newlines are `↵`."""
    marked = _MARK.sub(r"\\\g<0>", running(text))
    marked = _FIRST.sub(r"\g<0>\\", marked)
    return _ENTITY.sub(lambda found: f"&#{ord(found[0])};", marked)


def fenced(text: str) -> str:
    """The text as a block of its own, line by line."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{printable(text)}\n{fence}"


def blockquote(text: str) -> str:
    """The text as a quotation, line by line."""
    return "\n".join(f"> {inline(line)}".rstrip() for line in text.split("\n"))


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[str] = ()
) -> str:
    """A table; the columns headed by one of `numbers` are aligned to the right."""
    rule = ["---:" if heading in numbers else "---" for heading in headings]
    cells = [map(inline, headings), rule, *(map(inline, row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
