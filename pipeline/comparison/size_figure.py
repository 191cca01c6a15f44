"""The figure of loss against parameters, in the style of `plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from matplotlib.axes import Axes

from pipeline.numbers import shown
from pipeline.plots.style import (
    COLOURS,
    WIDE,
    Interval,
    clear_of_each_other,
    drawing,
    interval_bar,
    size_axis,
)
from pipeline.system.text import shortened

SizeKind = Literal["scratch", "gpt2", "published"]


@dataclass(frozen=True)
class SizePoint:
    """A model in the figure of loss against size.

    Attributes:
        name: what stands beside the point, with its loss.
        parameters: where it stands.
        loss: nats per token.
        interval: how sure the loss is; None where it cannot be said.
        kind: `scratch`, `gpt2`, or `published` for a loss that somebody else measured.
    """

    name: str
    parameters: float
    loss: float
    kind: SizeKind
    interval: Interval | None = None


def loss_by_size(
    points: Sequence[SizePoint],
    path: Path,
    *,
    untrained: float | None = None,
    missing: Mapping[str, float] | None = None,
    text: str = "validation",
    title: str | None = None,
    size: tuple[float, float] = WIDE,
) -> None:
    """Draw losses against parameters on a log axis; the untrained loss is a level line.

    Works with any of the three kinds missing.

    Args:
        missing: names and parameters of the models that could not be measured: they are marked
            where they would stand.
        text: what the losses are of, for axis and title.
    """
    with drawing(path, size) as figure:
        axes = figure.add_subplot()
        of_kind = {kind: [p for p in points if p.kind == kind] for kind in get_args(SizeKind)}
        if untrained is not None:
            axes.axhline(untrained, color=COLOURS["muted"], linewidth=1.2, linestyle=(0, (1, 2)))
        _plot_points(axes, of_kind["gpt2"], "gpt2", line=True)
        _plot_points(axes, of_kind["scratch"], "validation", line=False)
        _plot_published(axes, of_kind["published"])
        sizes = [*(p.parameters for p in points), *(missing or {}).values()]
        losses = [loss for p in points for loss in (p.loss, *(p.interval or ()))]
        has_ensemble = len({p.parameters for p in of_kind["scratch"]}) > 1
        _fit_sizes(axes, sizes, losses, untrained, left=12 if has_ensemble else 3)
        _name_points(axes, of_kind, untrained)
        _mark_missing(axes, missing or {})
        title = f"{text.capitalize()} loss against size" if title is None else title
        axes.set(xlabel="parameters", ylabel=f"{text} loss, nats per token", title=title)


def _plot_points(axes: Axes, points: Sequence[SizePoint], colour: str, *, line: bool) -> None:
    axes.plot(
        [p.parameters for p in points],
        [p.loss for p in points],
        color=COLOURS[colour],
        linestyle="-" if line else "none",
        linewidth=1.2,
        marker="o",
        markersize=8,
        zorder=3,
    )
    for p in points:
        if p.interval:
            interval_bar(axes, p.parameters, p.interval, COLOURS[colour])


def _plot_published(axes: Axes, points: Sequence[SizePoint]) -> None:
    if not points:
        return
    axes.plot(
        [p.parameters for p in points],
        [p.loss for p in points],
        linestyle="none",
        marker="o",
        markersize=13,
        markerfacecolor="none",
        markeredgecolor=COLOURS["gpt2"],
        label="as published",
        zorder=3,
    )
    axes.legend(loc="best", frameon=False, labelcolor=COLOURS["gpt2"], borderaxespad=0.2)


def _mark_missing(axes: Axes, missing: Mapping[str, float]) -> None:
    for name, parameters in missing.items():
        axes.axvline(parameters, color=COLOURS["gpt2"], linewidth=1.0, linestyle=(0, (1, 3)))
        foot = SizePoint(name, parameters, 0.0, "gpt2")
        _name(axes, foot, f"{name},\nnot measured", (-6, 8), colour="gpt2", ha="right")


def _fit_sizes(
    axes: Axes,
    sizes: Sequence[float],
    losses: Sequence[float],
    untrained: float | None,
    left: float,
) -> None:
    """Room for the names around the points."""
    size_axis(axes)
    axes.set_xlim(min(sizes, default=1e6) / left, max(sizes, default=1e9) * 3)
    levels = [*losses, *([] if untrained is None else [untrained])]
    axes.set_ylim(0.0, 1.12 * max(levels, default=0.0) or 1.0)


def _name_points(
    axes: Axes, points: Mapping[str, Sequence[SizePoint]], untrained: float | None
) -> None:
    """GPT-2's names below their points, the scratch model's beside them and clear of each other."""
    measured = {p.name for p in points["gpt2"]}
    named = [*points["gpt2"], *(p for p in points["published"] if p.name not in measured)]
    for p in named:
        text = f"{p.name}\n{shown(p.loss, 2)}"
        below = replace(p, loss=p.interval[0] if p.interval else p.loss)
        _name(axes, below, text, (0, -12), colour="gpt2", ha="center", va="top")
    if named:
        first = min(named, key=lambda p: p.parameters)
        _name(axes, first, "GPT-2", (-12, 0), colour="gpt2", ha="right", va="center")
    sizes = {p.parameters for p in points["scratch"]}
    for size in sorted(sizes):  # an ensemble, the largest, is to the right of the others' names
        ha, offset = ("left", (10, 0)) if size == max(sizes) else ("right", (-10, 0))
        alike = [p for p in points["scratch"] if p.parameters == size]
        scratch = sorted(alike, key=lambda p: p.loss)
        heights = clear_of_each_other(axes, [p.loss for p in scratch])
        for p, height in zip(scratch, heights, strict=True):
            beside, text = replace(p, loss=height), f"{p.name} {shown(p.loss, 2)}"
            _name(axes, beside, text, offset, colour="validation", ha=ha, va="center")
    if untrained is not None:
        corner = SizePoint("untrained", axes.get_xlim()[1], untrained, "scratch")
        _name(axes, corner, f"untrained {shown(untrained, 2)}", (-2, 4), colour="muted", ha="right")


def _name(
    axes: Axes, at: SizePoint, text: str, offset: tuple[float, float], colour: str, **style: Any
) -> None:
    axes.annotate(
        "\n".join(shortened(line, 36) for line in text.split("\n")),
        (at.parameters, at.loss),
        xytext=offset,
        textcoords="offset points",
        color=COLOURS[colour],
        linespacing=1.3,
        **style,
    )
