"""The commands that README and `docs/` print, as a reader would copy them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```sh\n(.*?)```", re.S)
INLINE = re.compile(r"`((?:dvc|lossbook|make|python) [^`]+)`")


def blocks(page: Path) -> list[str]:
    """The shell blocks of a page."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(block: str) -> Iterator[list[str]]:
    """Each command of a block in words, comments and what it is joined by left out."""
    open_line = ""
    for line in block.replace("\\\n", " ").splitlines():
        open_line = f"{open_line}\n{line}" if open_line else line
        try:
            words = shlex.split(open_line, comments=True)
        except ValueError:  # a quotation goes on in the next line
            continue
        open_line = ""
        yield from _parts(words)


def _parts(words: list[str]) -> Iterator[list[str]]:
    """The commands that `&&` joins, each without the NAME=value before it."""
    part: list[str] = []
    for word in [*words, "&&"]:
        if word == "&&":
            if part:
                yield part
            part = []
        elif part or not re.fullmatch(r"[A-Z_]+=.*", word):
            part.append(word)


def all_commands(page: Path) -> list[list[str]]:
    """Those of the blocks and those within sentences and tables."""
    found = [words for block in blocks(page) for words in commands(block)]
    text = " ".join(BLOCK.sub("", page.read_text(encoding="utf-8")).split())
    return found + [words for inline in INLINE.findall(text) for words in commands(inline)]
