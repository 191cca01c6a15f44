"""What a user or a file gave, fit for one line."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.system.text import (
    flowing,
    printable,
    quoted,
    readable,
    running,
    shortened,
    signed,
    visible,
)
from pipeline.tokens.tokenizer import VOCABULARY, token_bytes

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


@given(st.binary(max_size=40))
def test_bytes_that_are_no_text_can_be_read(data: bytes) -> None:
    text = readable(data)
    text.encode("utf-8")
    shown = re.sub(
        rb"<((?:[0-9A-F]{2} ?)+)>", lambda found: bytes.fromhex(found[1].decode()), text.encode()
    )
    assert shown == data or b"<" in data


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b" the", " the"),
        ("水".encode(), "水"),
        (b"\xe9\x81", "<E9 81>"),
        (b" \xe9\x81", " <E9 81>"),
        (b"\x81a\xff\xe6\xb0\xb4", "<81>a<FF>水"),
        (b"\xed\xa0\x80", "<ED A0 80>"),  # a surrogate, which UTF-8 has not
        (b"", ""),
    ],
)
def test_stray_bytes_are_shown(data: bytes, text: str) -> None:
    assert readable(data) == text


def test_every_token_of_the_vocabulary_can_be_read() -> None:
    for token in range(VOCABULARY):
        data = token_bytes(token)
        text = readable(data)
        assert "\ufffd" not in text or "\ufffd".encode() in data
        assert visible(text).isprintable()


def test_blanks_have_signs() -> None:
    assert visible(" a\n\tb\x1b") == "␣a↵⇥b\\x1b"
    assert visible(readable(b" \xe9\x81")) == "␣<E9 81>"
    assert signed("a b\n") == "a b↵"
    assert running(" a\n\nb\x00\tc\n") == "a↵↵ b\\x00⇥c↵"
    assert flowing("\na ") == "↵ a "


@given(TEXT)
def test_what_is_shown_stays_in_its_line(text: str) -> None:
    for show in (visible, signed, flowing, running):
        assert len(show(text).splitlines()) <= 1
        assert show(text) == printable(show(text), keep="")
