"""The figures: the same bytes for the same numbers, whatever the numbers."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from pipeline.comparison.size_figure import SizePoint, loss_by_size
from pipeline.plots.curves import loss_curves
from pipeline.plots.style import COLOURS, NARROW, clear_of_each_other, compact

HISTORY = pd.DataFrame(
    {
        "tokens_seen": [0, 512, 1024, 2048],
        "train_loss": [10.9, 7.0, 4.0, 1.0],
        "val_loss": [10.8, 7.5, 6.14, 6.43],
    }
)
POINTS = [
    SizePoint("scratch, best", 162e6, 6.14, "scratch"),
    SizePoint("last", 162e6, 6.43, "scratch"),
    SizePoint("small", 124e6, 3.56, "gpt2"),
    SizePoint("XL", 1558e6, 3.1195, "published"),
]


NUMBERS = st.sampled_from([math.nan, math.inf, 0.0, 6.1, 800.0, 1e30, 1e299])


@pytest.mark.filterwarnings("error")
@settings(max_examples=15, deadline=None)
@given(losses=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4), level=NUMBERS)
def test_losses_without_bounds_are_drawn_as_far_as_they_can_be(
    tmp_path_factory: pytest.TempPathFactory, losses: list[tuple[float, float]], level: float
) -> None:
    path = tmp_path_factory.mktemp("figures") / "curves.svg"
    table = pd.DataFrame(losses, columns=["train_loss", "val_loss"])
    table["tokens_seen"] = [512 * i for i in range(len(table))]
    loss_curves(table, path, tokens_per_epoch=512, references={"GPT-2 small": level})
    assert max(map(len, re.findall(r">([^<]*)</text>", path.read_text()))) < 40
    points = [SizePoint(f"m{i}", 1e6 * 9**i, v, "scratch") for i, (_, v) in enumerate(losses)]
    drawn = [point for point in points if math.isfinite(point.loss)]
    loss_by_size(drawn, path, untrained=level if math.isfinite(level) else None)
    assert max(map(len, re.findall(r">([^<]*)</text>", path.read_text()))) < 40


def curves(path: Path, history: pd.DataFrame = HISTORY) -> bytes:
    loss_curves(history, path, tokens_per_epoch=512, references={"GPT-2 small": 3.56})
    return path.read_bytes()


def sizes(path: Path, points: list[SizePoint] = POINTS) -> bytes:
    loss_by_size(points, path, untrained=10.93)
    return path.read_bytes()


@pytest.mark.parametrize("draw", [curves, sizes])
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_equal_numbers_give_equal_bytes(
    tmp_path: Path, draw: Callable[[Path], bytes], suffix: str
) -> None:
    first = draw(tmp_path / f"a{suffix}")
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 9, "axes.facecolor": "red"}):
        assert draw(tmp_path / f"b{suffix}") == first
        assert mpl.rcParams["font.size"] == 20  # the user's own style stays


def test_a_png_is_large_and_has_no_memory(tmp_path: Path) -> None:
    png = curves(tmp_path / "loss.png")
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20]) == 1600
    assert b"tEXt" not in png
    assert b"tIME" not in png


def test_a_page_drawing_takes_the_pages_font_and_colours(tmp_path: Path) -> None:
    svg = curves(tmp_path / "loss.svg").decode()
    assert svg.startswith("<svg")
    assert "font-family: inherit" in svg
    assert "DejaVu" not in svg
    for name in ("training", "validation", "gpt2", "muted", "grid"):
        assert f"var(--plot-{name}, {COLOURS[name]})" in svg
    assert "<metadata" not in svg
    assert "<style" not in svg


def texts(path: Path) -> list[str]:
    return [part.split("</text>")[0].rpartition(">")[2] for part in path.read_text().split("<text")]


def test_loss_curves_say_what_they_show(tmp_path: Path) -> None:
    path = tmp_path / "loss.svg"
    curves(path)
    said = texts(path)
    assert {"epochs", "tokens seen", "loss, nats per token"} <= set(said)
    assert {"training", "validation", "GPT-2 small", "best 6.14, epoch 2"} <= set(said)
    assert {"0", "1", "2", "3", "4"} <= set(said)  # whole epochs
    assert {"400", "800", "1.2k", "1.6k", "2k"} <= set(said)


def heights(svg: str, colour: str, *, of: str) -> list[float]:
    """How high the paths of a colour are, whose tag holds `of`."""
    found = []
    for tag in re.findall(r"<path[^>]*>", svg):
        if COLOURS[colour] in tag and of in tag:
            d = re.search(r' d="([^"]*)"', tag)
            assert d
            ys = [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", d[1])]
            found.append(max(ys) - min(ys))
    return found


def test_intervals_are_bands_and_bars_of_their_size(tmp_path: Path) -> None:
    path, names = tmp_path / "loss.svg", {"GPT-2 small": 3.56, "GPT-2 XL": 3.12}
    bands, bars = {"GPT-2 small": (3.0, 4.0)}, {1024: (5.64, 6.64), 2048: (5.43, 7.43)}
    loss_curves(
        HISTORY, path, tokens_per_epoch=512, references=names, bands=bands, bars=bars, title=""
    )
    drawn = path.read_text()
    (band,) = heights(drawn, "gpt2", of="opacity: 0.14")  # none of XL, whose interval is not known
    one, two = heights(drawn, "validation", of="stroke-width: 1.2")
    assert one == pytest.approx(band, rel=1e-3)
    assert two == pytest.approx(2 * band, rel=1e-3)
    assert "GPT-2 XL" in texts(path)

    points = [
        SizePoint("small", 124e6, 3.5, "gpt2", (3.0, 4.0)),
        SizePoint("XL", 1558e6, 3.1, "gpt2"),
        SizePoint("scratch, best", 162e6, 6.0, "scratch", (5.0, 7.0)),
    ]
    loss_by_size(points, path, text="test")
    drawn = path.read_text()
    one, _ = heights(drawn, "gpt2", of="stroke-width: 1.2")  # the line between the sizes is second
    (two,) = heights(drawn, "validation", of="stroke-width: 1.2")
    assert two == pytest.approx(2 * one, rel=1e-3)
    assert {"test loss, nats per token", "Test loss against size"} <= set(texts(path))


def test_an_ensemble_stands_to_the_right_of_the_others_names(tmp_path: Path) -> None:
    path, names = tmp_path / "sizes.svg", ("scratch, best", "averaged")
    alone = [SizePoint(name, 2e8, 5.8, "scratch") for name in names]
    ensemble = SizePoint("all", 6e8, 5.0, "scratch")
    for points, left in ((alone, ()), ([*alone, ensemble], names)):
        loss_by_size(points, path, size=NARROW)
        ends = re.findall(r"<text[^>]*text-anchor: end[^>]*>([^<]*) 5.80</text>", path.read_text())
        assert sorted(ends) == sorted(left)


@pytest.mark.parametrize(
    "rows",
    [
        slice(0, 1),  # one evaluation, before the first step
        slice(2, 3),
        slice(0, 2),
    ],
)
def test_a_short_history_is_drawn(tmp_path: Path, rows: slice) -> None:
    assert curves(tmp_path / "loss.png", HISTORY.iloc[rows])


def test_a_loss_that_is_missing_leaves_a_gap(tmp_path: Path) -> None:
    history = HISTORY.assign(val_loss=[math.nan, 7.5, math.nan, 8.0], train_loss=math.nan)
    path = tmp_path / "loss.svg"
    curves(path, history)
    assert "best 7.50, epoch 1" in texts(path)
    assert "training" not in texts(path)
    assert curves(tmp_path / "none.svg", HISTORY.assign(val_loss=math.nan))


@pytest.mark.parametrize(
    ("kinds", "absent"),
    [
        ({"scratch", "gpt2", "published"}, set()),
        ({"scratch"}, {"GPT-2", "as published"}),
        ({"scratch", "gpt2"}, {"as published"}),
        ({"scratch", "published"}, set()),
    ],
)
def test_sizes_are_drawn_with_any_of_them(
    tmp_path: Path, kinds: set[str], absent: set[str]
) -> None:
    path = tmp_path / "sizes.svg"
    sizes(path, [point for point in POINTS if point.kind in kinds])
    said = set(texts(path))
    assert {"parameters", "scratch, best 6.14", "last 6.43", "untrained 10.93"} <= said
    assert {"GPT-2", "as published"} & said == {"GPT-2", "as published"} - absent


def test_a_narrow_drawing_is_narrow(tmp_path: Path) -> None:
    loss_by_size(POINTS, tmp_path / "narrow.svg", size=NARROW)
    assert 'viewBox="0 0 288 259.2"' in (tmp_path / "narrow.svg").read_text()


def test_a_figure_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        curves(tmp_path / "loss.png", HISTORY.drop(columns="val_loss"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (46_080, "46.1k"),
        (99_950, "100k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (124_439_808, "124M"),
        (1_557_611_200, "1.6B"),
        (2e12, "2T"),
    ],
)
def test_compact(number: float, text: str) -> None:
    assert compact(number) == text


@given(st.lists(st.floats(0, 10), min_size=1, max_size=8).map(sorted))
@settings(max_examples=40, deadline=None)
def test_names_stand_apart_and_near(heights: list[float]) -> None:
    axes = Figure(figsize=(8, 4)).add_subplot()
    axes.set_ylim(0, 10)
    placed = clear_of_each_other(axes, heights)
    line = clear_of_each_other(axes, [5.0, 5.0])
    gap = line[1] - line[0]
    assert all(b - a > gap * 0.999 for a, b in itertools.pairwise(placed))
    # Together they stand where the heights do.
    assert sum(placed) == pytest.approx(sum(heights), abs=1e-6)
    apart = [a for a in heights if all(a == b or abs(a - b) > 8 * gap for b in heights)]
    if len(apart) == len(heights) == len(set(heights)):
        assert placed == pytest.approx(heights)
