"""Lines of shaded tokens, and a scale on which text stays readable."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pages.shading import (
    DARK,
    LIGHT,
    STEPS,
    TextSpan,
    break_lines,
    scale,
    shade,
    shaded_lines,
    step,
)


def token(text: str, losses: tuple[float, ...] = (1.0,), tokens: int = 1) -> TextSpan:
    return TextSpan(text, losses, tokens)


def lines_of(texts: list[str], width: int) -> list[str]:
    lines = break_lines([token(text) for text in texts], width)
    return ["".join(span.text for span in line) for line in lines]


def test_lines_break_before_words_and_after_newlines() -> None:
    texts = ["He", " sat", " still", "ness", ".", "\n", "\n", "She", " did", " not", "\n", "x"]
    assert lines_of(texts, 9) == ["He sat", " stillness.\n\n", "She did", " not\n", "x"]


def test_newlines_at_the_beginning_have_no_line_of_their_own() -> None:
    assert lines_of(["\n", "\n", "She", " did", "\n"], 20) == ["\n\nShe did\n"]


@given(st.lists(st.sampled_from(["a", " word", "\n", "\n\n", ".", " ", "é"])), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_lines_lose_nothing(texts: list[str], width: int) -> None:
    lines = lines_of(texts, width)
    assert "".join(lines) == "".join(texts)
    assert all(lines)
    assert all("\n" not in line.strip("\n") for line in lines)


def test_a_text_without_blanks_is_broken_too() -> None:
    assert max(map(len, lines_of(["字"] * 100, 10))) <= 21


def test_a_window_is_marked_where_it_begins() -> None:
    windows = [[token("one"), token(" two")], [token("three")]]
    assert [line.window for line in shaded_lines(windows, 3)] == [1, 0, 2]


def test_a_token_has_its_step_and_its_nats() -> None:
    pieces = [token("<b>", (0.2, 3.456)), token('"é', (1.0, 9.0), 2), token("\n", (0.0, 99.0))]
    assert shade(pieces, 1) == (
        '<span class="l3" title="3.46">&lt;b&gt;</span>'
        '<span class="l4" title="9.00 over 2 tokens">&#34;é</span>'
        '<span class="l10" title="99.00">↵</span>\n'
    )


@pytest.mark.parametrize(("nats", "place"), [(-0.0, 0), (0.99, 0), (1, 1), (9.99, 9), (10.8, 10)])
def test_steps_are_whole_nats(nats: float, place: int) -> None:
    assert step(nats) == place


def luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize(("stops", "direction"), [(LIGHT, -1), (DARK, 1)])
def test_the_scale_runs_one_way_in_steps_one_can_tell(
    stops: tuple[str, ...], direction: int
) -> None:
    colours = scale(stops)
    assert (len(colours), colours[0], colours[-1]) == (STEPS, stops[0], stops[-1])
    levels = [luminance(colour) + 0.05 for colour in colours]
    ratios = [(b / a) ** direction for a, b in itertools.pairwise(levels)]
    assert all(ratio > 1.03 for ratio in ratios)
