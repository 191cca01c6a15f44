"""The figures of a sweep, as what they say rather than as pixels."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.sweep.figures import (
    Curve,
    Panel,
    PanelLine,
    draw_curves,
    draw_panel,
    draw_sweep,
)

RATES = Panel(
    "learning_rate",
    (
        PanelLine("dropout 0", {"0.0001": (6.4, 6.6), "0.0004": (6.0, 6.1), "0.01": (6.9,)}),
        PanelLine("dropout 0.1", {"0.0001": (6.5,), "0.0004": (6.2,)}),
    ),
    failed=("1",),
)
CURVES = [
    Curve("a", 0, ((0, 10.9), (512, 7.0), (1024, 6.0))),
    Curve("b", 1, ((0, 10.9), (512, 7.5), (1024, 6.5))),
    *(Curve(f"s{i}", i, ((0, 10.9), (1024, 7.0))) for i in range(2, 9)),
    Curve("failed or unfinished", None, ((0, 10.9), (512, 30.0))),
]


def texts(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]+)</text>", path.read_text())


def marks(path: Path) -> list[float]:
    """Where the marks of values stand across, ascending."""
    found = re.findall(r'<use xlink:href="#\w+" x="([\d.]+)"', path.read_text())
    return sorted({round(float(x), 1) for x in found})


@pytest.mark.parametrize("size", [(8.0, 4.2), (4.0, 3.6)])
def test_a_panel_names_what_was_tried_and_the_best(
    tmp_path: Path, size: tuple[float, float]
) -> None:
    path = tmp_path / "panel.svg"
    draw_panel(RATES, path, "validation loss", size)
    shown = texts(path)
    assert {"1e-4", "4e-4", "0.01", "1", "learning_rate", "validation loss"} <= set(shown)
    assert {"dropout 0", "dropout 0.1", "failed", "lowest 6.050"} <= set(shown)


def test_a_learning_rate_stands_on_a_log_axis(tmp_path: Path) -> None:
    path = tmp_path / "panel.svg"
    even = Panel("learning_rate", [PanelLine("", {"0.001": (6.0,), "0.01": (6.5,), "0.1": (7.0,)})])
    draw_panel(even, path, "loss")
    left, middle, right = (x for x in marks(path) if x > 0)
    assert middle - left == pytest.approx(right - middle, abs=0.2)


def test_words_stand_in_a_row(tmp_path: Path) -> None:
    path = tmp_path / "panel.svg"
    draw_panel(Panel("init", [PanelLine("", {"gpt2": (6.0,), "pytorch": (6.5,)})]), path, "loss")
    assert {"gpt2", "pytorch", "init", "lowest 6.000"} <= set(texts(path))


def test_bars_stand_where_a_gap_has_an_interval(tmp_path: Path) -> None:
    scores = {"0.001": (6.0, 6.1), "0.01": (6.5, 6.6), "0.1": (7.0,)}
    lines = [PanelLine("", scores, {"0.01": (0.2, 0.8)})]
    paths = []
    for drawn in (lines, [PanelLine("", scores)]):
        draw_panel(Panel("learning_rate", drawn), tmp_path / "panel.svg", "loss")
        found = re.findall(
            r"M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \n", (tmp_path / "panel.svg").read_text()
        )
        paths.append({tuple(map(float, path)) for path in found})
    level, bar = sorted(paths[0] - paths[1], key=lambda path: path[0] == path[2])
    x, low, end, high = bar
    assert x == end
    assert level[1] == level[3]
    assert level[1] - low == pytest.approx((low - high) * 0.2 / 0.6, abs=0.1)  # downwards


def test_an_interval_of_any_size_leaves_the_losses_readable(tmp_path: Path) -> None:
    for name, interval in (("one", (-0.1, 0.3)), ("other", (-1e6, 1e6))):
        line = PanelLine("", {"a": (6.0, 6.1), "b": (6.2, 6.1)}, {"b": interval})
        draw_panel(Panel("init", [line]), tmp_path / f"{name}.svg", "loss")
    assert texts(tmp_path / "one.svg") == texts(tmp_path / "other.svg")


def test_a_band_spans_the_seeds_at_the_steps_that_they_share(tmp_path: Path) -> None:
    pair = [
        Curve("a", 0, ((0, 10.9), (512, 7.0), (1024, 6.0))),
        Curve("a", 0, ((0, 10.9), (512, 7.4), (768, 6.9), (1024, 6.2))),
    ]
    bands = []
    for curves in (pair, pair[:1], [pair[0], Curve("b", 1, pair[1].points)]):
        draw_curves(curves, tmp_path / "curves.svg")
        bands.append((tmp_path / "curves.svg").read_text().count("opacity: 0.15"))
    assert bands == [1, 0, 0]


def test_curves_name_six_settings_and_fold_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "curves.svg"
    draw_curves(CURVES, path)
    shown = texts(path)
    assert {"a", "b", "s5", "other settings", "failed or unfinished"} <= set(shown)
    assert "s6" not in shown


@pytest.mark.filterwarnings("error")
def test_losses_of_any_size_are_drawn(tmp_path: Path) -> None:
    panel = Panel("lr", [PanelLine("", {"0.1": (1e299, 9e299), "0.2": (6.0,), "0.3": (6.0,)})])
    curve = Curve("a", 0, ((0, 10.9), (512, 1e299), (1024, 6.0)))
    draw_panel(panel, tmp_path / "panel.svg", "loss")
    draw_curves([curve], tmp_path / "curves.svg")
    assert "lowest 6.000" in texts(tmp_path / "panel.svg")
    assert max(map(len, texts(tmp_path / "panel.svg") + texts(tmp_path / "curves.svg"))) < 60


def test_equal_numbers_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        draw_sweep([RATES, RATES], CURVES, tmp_path / name, "loss")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
