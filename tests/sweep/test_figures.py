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
