"""Texts of users and models in figures: no mathematics, no markup, no empty boxes, no warnings."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.comparison.size_figure import SizePoint, loss_by_size
from pipeline.pages.figure import drawn, inline
from pipeline.plots import style
from pipeline.plots.curves import loss_curves
from pipeline.plots.style import drawable, drawing
from pipeline.sampling.figures import next_token_bars, sampling_heat_maps
from pipeline.sweep.figures import Curve, Panel, PanelLine, draw_panel, draw_sweep
from pipeline.system.text import printable, running, shortened, visible
from tests.comparison.test_page import read
from tests.helpers.texts import HOSTILE, texts_of

HISTORY = pd.DataFrame({"tokens_seen": [0, 9], "train_loss": [9.0, 4.0], "val_loss": [9.0, 6.0]})


def bars(path: Path, text: str) -> None:
    groups = {text: {text: [0.5, 0.3, 0.2]}}
    next_token_bars([text, " the"], groups, path, title=text)


def maps(path: Path, text: str) -> None:
    sampling_heat_maps({text: [[0.1]]}, path, temperatures=[1.0], top_ks=[None], title=text)


def curves(path: Path, text: str) -> None:
    references = {text: 3.5}
    loss_curves(HISTORY, path, tokens_per_epoch=9, references=references, title=text)


def sizes(path: Path, text: str) -> None:
    points = [SizePoint(text, 1e8, 6.0, "scratch"), SizePoint("XL", 1e9, 3.1, "gpt2")]
    loss_by_size(points, path, missing={text: 1e9}, title=text)


def sweep(path: Path, text: str) -> None:
    lines = [PanelLine(text, {text: (6.0,), "b": (5.0,)}), PanelLine("other", {text: (7.0,)})]
    curve = Curve(text, 0, ((0, 9.0), (512, 6.0)))
    draw_sweep([Panel(text, lines, failed=("1",))], [curve], path, ylabel=text)


@pytest.fixture(autouse=True)
def silence(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No figure warns."""
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        yield
    assert caplog.records == []


@pytest.mark.parametrize("draw", [bars, maps, curves, sizes, sweep])
@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_every_text_can_be_drawn(
    tmp_path: Path, draw: Callable[[Path, str], None], suffix: str
) -> None:
    draw(tmp_path / f"figure{suffix}", "_" + " ".join(HOSTILE))


def test_a_figure_says_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "figure.svg"
    share = [0.1] * (len(HOSTILE) + 1)
    next_token_bars(HOSTILE, {HOSTILE[0]: dict.fromkeys(HOSTILE, share)}, path, title=HOSTILE[1])
    said = texts_of(path)
    assert HOSTILE[0] in said
    assert HOSTILE[1] in said
    for text in HOSTILE:
        assert shortened(visible(text), 24) in said
        for line in printable(text).split("\n"):
            assert line in said
    scores = {"1": (6.0,), "2": (5.0,)}
    draw_panel(Panel("rate", [PanelLine(text, scores) for text in HOSTILE]), path, "loss")
    said = texts_of(path)
    for text in HOSTILE:
        assert shortened(running(text), 99) in said


def test_a_text_in_a_drawing_is_no_part_of_its_markup(tmp_path: Path) -> None:
    text = HOSTILE[5]
    figure = drawn(lambda path, size: curves(path, text), text, "")
    for svg in (figure.wide, str(inline(figure.wide, "f1w-", "wide", text))):
        shown = read(f"<html>{svg}</html>")
        assert text in shown.text  # the title, and a reference's name in short
        assert shortened(text, 24) in shown.text
    (element,) = shown.all("svg")
    assert element["aria-label"] == text


def test_what_no_font_has_is_an_escape() -> None:
    assert drawable("a\U0010fffd é\n$x$ \x1b") == "a\\U0010fffd é\n$x$ \\x1b"
    assert drawable("\ud800") == "\\ud800"
    assert len(drawable("\U0010fffd" * 100)) == style.LONGEST


def test_a_font_of_the_machine_draws_what_ours_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """STIX stands for the fonts of a machine: it is there, and has letters that ours lacks."""
    letter = "\u2910"  # a two-headed arrow
    for fonts, shown in ((), letter.encode("unicode_escape").decode()), (("STIXGeneral",), letter):
        monkeypatch.setattr(style, "MORE_FONTS", ("No Such Font", *fonts))
        style.more_fonts.cache_clear()
        style._is_drawn.cache_clear()
        assert drawable(letter) == shown
        with drawing(tmp_path / f"{len(fonts)}.png", (2, 1)) as figure:
            figure.text(0.1, 0.5, letter)
    monkeypatch.undo()
    style.more_fonts.cache_clear()
    style._is_drawn.cache_clear()
    assert (tmp_path / "0.png").read_bytes() != (tmp_path / "1.png").read_bytes()


@given(st.text(st.characters(exclude_categories=()), min_size=1, max_size=20))
@settings(max_examples=3, deadline=None)
def test_any_text_can_be_drawn(text: str) -> None:
    with TemporaryDirectory() as folder:
        sizes(Path(folder, "figure.svg"), text)
        bars(Path(folder, "figure.png"), text)
