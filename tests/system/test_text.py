"""What a user or a file gave, fit for one line."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pipeline.system.text import printable, quoted, shortened

TEXT = st.text(st.characters(exclude_categories=()), max_size=300)  # lone surrogates too


@given(TEXT)
def test_printable_text_commands_no_terminal_and_can_be_written(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert {c for c in shown if unicodedata.category(c) in ("Cc", "Cs")} <= {"\n", "\t"}
    assert printable(shown) == shown


def test_an_escape_says_what_it_stands_for() -> None:
    assert printable("\x1b[2J \x9b \u202e \ud800") == "\\x1b[2J \\x9b \\u202e \\ud800"
    assert printable("é ह 漢 😀\n") == "é ह 漢 😀\n"
    assert printable("a\nb", keep="") == "a\\nb"


@given(TEXT, st.integers(3, 50))
def test_shortened_text_keeps_both_ends(text: str, limit: int) -> None:
    short = shortened(text, limit)
    assert len(short) == min(len(text), limit)
    if short != text:
        start, _, end = short.partition("…") if "…" not in text else (short, "", "")
        assert text.startswith(start) or "…" in text
        assert text.endswith(end)


def test_quoted_is_what_python_writes_of_short_values() -> None:
    assert quoted("it's") == repr("it's")
    assert quoted(3) == "3"


def test_quoted_is_short_of_anything() -> None:
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10**6, [1] * 10**5, deep, 10**5000, {"a": "\x1b" * 1000}):
        text = quoted(value, 60)
        assert len(text) <= 62
        assert text.isprintable()
