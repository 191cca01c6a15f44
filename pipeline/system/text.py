"""Text that is not ours, made fit for a line that people read."""

from __future__ import annotations

import re
from typing import Any

# C0 and C1 controls, DEL, bidirectional controls, line separators and lone surrogates: what a
# terminal obeys, what reorders a line, and what no encoding can write.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_STRAY = re.compile("[\udc80-\udcff]+")  # bytes that are not UTF-8, as Python escapes them
_BYTES_OR_BLANK = re.compile("(<[0-9A-F]{2}(?: [0-9A-F]{2})*>)| ")  # bytes as `readable` shows them
_SIGNS = str.maketrans("\n\t", "↵⇥")


def printable(text: str, keep: str = "\n\t") -> str:
    r"""The text with control characters, except those in `keep`, as escapes such as `\x1b`."""

    def escaped(match: re.Match[str]) -> str:
        character = match[0]
        return character if character in keep else repr(character)[1:-1]

    return _UNSEEN.sub(escaped, text)


def shortened(text: str, limit: int = 120) -> str:
    """The text in at most `limit` characters: what is too long is cut in the middle, at `…`."""
    if len(text) <= limit:
        return text
    end = (limit - 1) // 3
    return f"{text[: limit - 1 - end]}…{text[len(text) - end :]}"


def quoted(value: Any, limit: int = 120) -> str:
    """What a user or a file gave, in quotes as Python writes them, for a message."""
    if isinstance(value, str):
        # A part of a long text is enough, and repr of all of it is not.
        value = shortened(value, limit)
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # too deep, or a number of too many digits
        text = f"a {type(value).__name__}"
    return shortened(printable(text, keep=""), limit + 2)


def readable(data: bytes) -> str:
    """UTF-8 as text, in which bytes that are no whole character are written as `<E9 81>`."""
    text = data.decode("utf-8", errors="surrogateescape")
    return _STRAY.sub(_in_hex, text)


def _in_hex(stray: re.Match[str]) -> str:
    return f"<{stray[0].encode('utf-8', 'surrogateescape').hex(' ').upper()}>"


def signed(text: str) -> str:
    """The text with newlines and tabs as `↵` and `⇥`, and control characters as escapes."""
    return printable(text).translate(_SIGNS)


def visible(token: str) -> str:
    """The same of a token, in which every blank is to be seen: `␣the`."""
    shown = _BYTES_OR_BLANK.sub(lambda found: found[1] or "␣", signed(token))
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)


def flowing(text: str) -> str:
    """The same of a piece of a text, to be read in one paragraph: a blank follows newlines."""
    return signed(re.sub(r"\n+", r"\g<0> ", text))


def running(text: str) -> str:
    """The same of a whole text, without blanks around it."""
    return flowing(text).strip()
