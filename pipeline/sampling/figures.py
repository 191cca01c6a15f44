"""The figures of sampling, in the style of `plots`: the grid as heat maps, and one next token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from pipeline.numbers import shown
from pipeline.plots.style import COLOURS, WIDE, drawing, finite
from pipeline.sampling.presentation import Cells, top_k_name
from pipeline.system.text import shortened, visible

COLUMNS = 3
PANEL = (3.1, 2.7)  # inches
# Pale to strong, pale enough for the number in each cell to be read.
RAMP = (COLOURS["paper"], "#cfe3f3", "#74b0dd", COLOURS["training"])
# From cold to hot, different in lightness too.
STEPS = ("#0b3c63", COLOURS["training"], "#5fa8d9", "#d99a6c", COLOURS["validation"], "#6e2409")


def sampling_heat_maps(
    metrics: Mapping[str, Cells],
    path: Path,
    *,
    temperatures: Sequence[float],
    top_ks: Sequence[int | None],
    title: str = "What temperature and top-k do to samples",
) -> None:
    """Draw a heat map for each metric, temperatures down and top-k across.

    Args:
        metrics: title to cells, one line per temperature; `None` leaves a cell blank.
        path: `.png` or `.svg`.
        temperatures, top_ks: the settings of the lines and columns; `None` is no top-k.
    """
    lines = math.ceil(len(metrics) / COLUMNS)
    columns = min(COLUMNS, len(metrics))
    size = (columns * PANEL[0], lines * PANEL[1] + 0.4)
    with drawing(path, size) as figure:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        panels = figure.subplots(lines, columns, squeeze=False).flatten()
        for panel, (name, cells) in zip(panels, metrics.items(), strict=False):
            _heat_map(panel, name, cells)
            panel.set_yticks(range(len(temperatures)), [f"{t:g}" for t in temperatures])
            panel.set_xticks(range(len(top_ks)), list(map(top_k_name, top_ks)))
            panel.set_xlabel("top-k")
        for panel in panels[::columns]:
            panel.set_ylabel("temperature")
        for panel in panels[len(metrics) :]:
            panel.set_visible(False)


def next_token_bars(
    tokens: Sequence[str],
    groups: Mapping[str, Mapping[str, Sequence[float]]],
    path: Path,
    *,
    title: str,
    size: tuple[float, float] = (WIDE[0], 5.4),
) -> None:
    """Draw how settings reshape the next token's distribution: one panel per group of settings.

    Args:
        tokens: the likeliest tokens, as text.
        groups: a group's name to its settings, each with one probability per token, and one more
            for all other tokens together.
        path: `.png` or `.svg`.
    """
    with drawing(path, size) as figure:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        panels = figure.subplots(len(groups), 1, squeeze=False, sharex=True).flatten()
        for panel, (name, settings) in zip(panels, groups.items(), strict=True):
            _bars(panel, settings)
            panel.set_title(name, fontsize=10)
            panel.set_ylabel("probability")
            panel.spines["top"].set_visible(False)
        names = [*(shortened(visible(token), 24) for token in tokens), "all others"]
        panels[-1].set_xticks(range(len(names)), names)
        panels[-1].tick_params(axis="x", rotation=30)


def _heat_map(axes: Axes, name: str, cells: Cells) -> None:
    numbers = np.array([[np.nan if c is None else c for c in line] for line in cells], dtype=float)
    values = finite(numbers)
    ramp = LinearSegmentedColormap.from_list("lossbook", RAMP)
    axes.imshow(values, cmap=ramp, aspect="auto")
    known = values[~np.isnan(values)]
    middle = (known.min() + known.max()) / 2 if len(known) else 0.0
    spread = bool(len(known)) and known.max() > known.min()
    for (line, column), value in np.ndenumerate(values):
        strong = spread and value > middle + (known.max() - middle) / 3
        colour = COLOURS["paper"] if strong else COLOURS["ink"]
        text = "" if cells[line][column] is None else _short(float(numbers[line, column]))
        axes.text(column, line, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_title(name, fontsize=10)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _bars(axes: Axes, settings: Mapping[str, Sequence[float]]) -> None:
    width = 0.8 / len(settings)
    colours = [STEPS[i * len(STEPS) // len(settings)] for i in range(len(settings))]
    bars = []
    for i, probabilities in enumerate(settings.values()):
        places = np.arange(len(probabilities)) + (i - (len(settings) - 1) / 2) * width
        bars.append(axes.bar(places, probabilities, width, color=colours[i % len(colours)]))
    axes.set_ylim(0.0, 1.0)
    axes.legend(bars, list(settings), frameon=False, fontsize=9, ncols=2, loc="upper center")


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 99.5 else shown(value, 0)
