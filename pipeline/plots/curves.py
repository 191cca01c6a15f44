"""Loss against training, in the style of `style`: what `train` draws and the comparison shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from pandas import DataFrame

from pipeline.numbers import shown
from pipeline.plots.style import (
    COLOURS,
    WIDE,
    Interval,
    compact,
    drawing,
    finite,
    interval_bar,
    label_ends,
)


def loss_curves(
    history: DataFrame,
    path: Path,
    *,
    tokens_per_epoch: int,
    references: Mapping[str, float] | None = None,
    bands: Mapping[str, Interval] | None = None,
    bars: Mapping[float, Interval] | None = None,
    title: str = "Training and validation loss",
    size: tuple[float, float] = WIDE,
) -> None:
    """Draw training and validation loss against epochs, with tokens seen along the top.

    Args:
        history: the columns `tokens_seen`, `train_loss` and `val_loss` (nats per token), one
            row per evaluation; a loss that is NaN or infinite leaves a gap.
        path: `.png` or `.svg`.
        tokens_per_epoch: tokens that one pass over the training windows sees.
        references: other models' validation losses, as level lines with their names.
        bands: intervals of the references, by name.
        bars: intervals of the validation loss, by tokens seen.
        size: width and height in inches.
    """
    with drawing(path, size) as figure:
        axes = figure.add_subplot()
        epochs = history["tokens_seen"].to_numpy(dtype=float) / tokens_per_epoch
        ends = []
        for column, name in (("train_loss", "training"), ("val_loss", "validation")):
            loss = finite(history[column])
            known = loss[~np.isnan(loss)]
            marker = "o" if len(known) < 3 else None  # a line of one point cannot be seen
            axes.plot(epochs, loss, color=COLOURS[name], marker=marker, clip_on=False, zorder=3)
            if len(known):
                ends.append((float(known[-1]), name, COLOURS[name]))
        for name, level in (references or {}).items():
            if not np.isfinite(level):
                continue
            axes.axhline(level, color=COLOURS["gpt2"], linewidth=1.0, linestyle=(0, (1, 2)))
            if bands and name in bands:
                axes.axhspan(*bands[name], color=COLOURS["gpt2"], alpha=0.14, linewidth=0, zorder=0)
            ends.append((level, name, COLOURS["gpt2"]))
        known_bars = {seen / tokens_per_epoch: bar for seen, bar in (bars or {}).items()}
        for epoch, bar in known_bars.items():
            interval_bar(axes, epoch, bar, COLOURS["validation"])
        axes.set_xlim(0.0, float(epochs.max(initial=0.0)) or 1.0)
        _fit_losses(axes)
        _mark_best(axes, epochs, finite(history["val_loss"]), known_bars)
        label_ends(axes, ends)
        axes.set(xlabel="epochs", ylabel="loss, nats per token", title=title)
        _tokens_on_top(axes, tokens_per_epoch)


def _mark_best(axes: Axes, epochs: Any, loss: Any, bars: Mapping[float, Interval]) -> None:
    """Ring the lowest validation loss and label it, beyond its bar, with its value and epoch."""
    if np.isnan(loss).all():
        return
    best = int(np.nanargmin(loss))
    x, y = float(epochs[best]), float(loss[best])
    axes.plot(
        [x],
        [y],
        marker="o",
        markersize=8,
        color=COLOURS["validation"],
        markerfacecolor=COLOURS["paper"],
        markeredgewidth=2,
        clip_on=False,
        zorder=4,
    )
    where = x / axes.get_xlim()[1]  # the label must not run out of the picture
    side = "left" if where < 0.15 else "right" if where > 0.85 else "center"
    low, high = bars.get(x, (y, y))
    above = high < 0.85 * axes.get_ylim()[1]
    axes.annotate(
        f"best {shown(y, 2)}, epoch {round(x, 1):g}",
        (x, max(y, high) if above else min(y, low)),
        xytext=({"left": 10, "center": 0, "right": -6}[side], 12 if above else -12),
        textcoords="offset points",
        ha=side,
        va="bottom" if above else "top",
        color=COLOURS["validation"],
        zorder=5,
    )


def _fit_losses(axes: Axes) -> None:
    """Start at 0 where the losses come near it; else show their range."""
    low, high = axes.get_ylim()
    if 0.0 < low < 0.4 * high or low < 0.0:
        axes.set_ylim(0.0, high)


def _tokens_on_top(axes: Axes, tokens_per_epoch: int) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=axes.get_xlim()[1] >= 2))
    axes.spines["top"].set_visible(False)
    top = axes.secondary_xaxis(
        "top",
        functions=(
            lambda epochs: np.asarray(epochs) * tokens_per_epoch,
            lambda seen: np.asarray(seen) / tokens_per_epoch,
        ),
    )
    top.xaxis.set_major_locator(MaxNLocator(nbins=6))
    top.xaxis.set_major_formatter(FuncFormatter(lambda seen, _: compact(seen)))
    top.set_xlabel("tokens seen")
