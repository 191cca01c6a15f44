"""The figures of a ladder: loss against compute, parameters and tokens, with GPT-2's levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from pipeline.numbers import shown
from pipeline.plots.style import COLOURS, WIDE, drawing, label_ends, size_axis
from pipeline.sweep.ladder import AXES, FARTHEST, Ladder
from pipeline.sweep.scaling import LEVEL, Floats

POINTS = 100  # of a curve
NAMES = {"C": "compute", **AXES}


@dataclass(frozen=True)
class Picture:
    """Losses against one axis.

    Attributes:
        name: of the axis, and with its unit `xlabel`.
        marks: of every run, on the axis and as a loss; of the rungs that the curve is of first.
        on_curve: how many of the marks these are.
        curve: the law on the axis, with the ends of its band: rows x, loss, low, high; or None.
        measured: the largest value that was measured, from which the curve is an extrapolation.
    """

    name: str
    xlabel: str
    ylabel: str
    marks: Sequence[tuple[float, float]]
    on_curve: int
    curve: Floats | None
    measured: float
    levels: Mapping[str, float]
    alt: str
    caption: str


def pictured(ladder: Ladder | None, ylabel: str) -> list[Picture]:
    """Against compute, and against what differs of parameters and tokens."""
    if ladder is None or len(ladder.rungs) < 2 or not ladder.axes:
        return []
    return [_picture(ladder, axis, ylabel) for axis in ("C", *ladder.axes)]


def _picture(ladder: Ladder, axis: str, ylabel: str) -> Picture:
    fixed = next((other for other in ladder.axes if "C" != axis != other), None)
    most = max(rung.of(fixed) for rung in ladder.rungs) if fixed else 0.0
    rungs = sorted(ladder.rungs, key=lambda rung: rung.of(fixed) < most if fixed else False)
    on_curve = [rung for rung in rungs if fixed is None or rung.of(fixed) == most]
    marks = [(rung.of(axis), score) for rung in rungs for score in rung.scores]
    measured = max(x for x, _ in marks)
    law = f"Dashed: an extrapolation. The band holds a new run in {100 * LEVEL:.0f} %. "
    if axis == "C" and len(ladder.axes) > 1:
        law += "The curve is the law's lowest loss for that compute. "
    elif fixed:
        law += f"The curve is of the most {NAMES[fixed]}, whose runs are the coloured ones. "
    return Picture(
        name=NAMES[axis],
        xlabel="compute, FLOPs" if axis == "C" else NAMES[axis],
        ylabel=ylabel,
        marks=marks,
        on_curve=sum(len(rung.scores) for rung in on_curve),
        curve=_curve(ladder, axis, most, min(x for x, _ in marks), measured),
        measured=measured,
        levels=ladder.levels,
        alt=ladder.conclusion(),
        caption=f"A mark is a run. {law if ladder.scaling else ''}{ladder.note()}",
    )


def _curve(ladder: Ladder, axis: str, most: float, low: float, high: float) -> Floats | None:
    if ladder.scaling is None:
        return None
    x = np.log(np.geomspace(low, FARTHEST * high, POINTS))
    if axis != "C":
        logs = np.stack([x if a == axis else np.full(POINTS, np.log(most)) for a in ladder.axes], 1)
    elif len(ladder.axes) > 1:
        logs = ladder.scaling.frontier(x - np.log(6))
    else:  # what does not differ is a factor
        largest = max(ladder.rungs, key=lambda rung: rung.compute)
        logs = x[:, None] + np.log(largest.of(ladder.axes[0]) / largest.compute)
    return np.stack([np.exp(x), ladder.scaling.losses(logs), *ladder.scaling.band(logs)])


def draw_ladder(picture: Picture, path: Path, size: tuple[float, float] = WIDE) -> None:
    with drawing(path, size) as figure:
        draw_axes(figure.add_subplot(), picture)


def draw_axes(axes: Axes, picture: Picture) -> None:
    """The axis is logarithmic; levels are lines across, named at their right ends."""
    size_axis(axes)
    if picture.name == NAMES["C"]:
        axes.xaxis.set_major_locator(LogLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda flops, _: f"{flops:.0e}"))
    losses = [*(y for _, y in picture.marks), *picture.levels.values()]
    if picture.curve is not None:
        x, loss, low, high = picture.curve
        losses += [loss[-1]]
        axes.fill_between(x, low, high, color=COLOURS["validation"], alpha=0.15, linewidth=0)
        for part, style in ((x <= picture.measured, "-"), (x >= picture.measured, (0, (4, 2)))):
            axes.plot(x[part], loss[part], color=COLOURS["validation"], linestyle=style)
    for colour, marks in (
        ("validation", picture.marks[: picture.on_curve]),
        ("muted", picture.marks[picture.on_curve :]),
    ):
        axes.plot(
            [x for x, _ in marks],
            [y for _, y in marks],
            linestyle="none",
            marker="o",
            color=COLOURS[colour],
            zorder=3,
        )
    for loss in picture.levels.values():
        axes.axhline(loss, color=COLOURS["gpt2"], linewidth=1.0, linestyle=(0, (1, 2)))
    axes.set_ylim(min(losses) / 1.05, max(losses) * 1.05)
    axes.set(xlabel=picture.xlabel, ylabel=picture.ylabel)
    if picture.levels:
        named = [
            (loss, f"{name} {shown(loss, 2)}", COLOURS["gpt2"])
            for name, loss in picture.levels.items()
        ]
        label_ends(axes, named)
