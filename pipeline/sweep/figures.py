"""The figures of a sweep: losses against each swept param, and every run's curve.

`panels` and `curves` choose what is shown; the `draw_` functions draw it in the style of `plots`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from pipeline.numbers import shown as shown_number
from pipeline.plots.style import COLOURS, NARROW, WIDE, compact, drawing
from pipeline.sweep.conclusion import in_words, short, shown
from pipeline.sweep.ranking import LARGEST, Setting, Sweep, score
from pipeline.sweep.selection import Trial
from pipeline.sweep.statistics import Interval
from pipeline.system.text import running, shortened

SERIES = ("validation", "training", "green", "gpt2", "ochre", "pink")
MARKERS = "osD^vP"
ALWAYS_LOG = ("learning_rate", "weight_decay")
TICKS = 8
LEGEND_LINE = 0.19  # inches
LETTER = 0.075  # inches
HANDLE = 7  # letters that the mark before a name takes
SETTLED = 0.1  # of the tokens: before, all curves fall from the same height


@dataclass(frozen=True)
class PanelLine:
    """The settings that differ in one param alone.

    Attributes:
        label: what else they have in common; empty where there is but one line.
        scores: the losses of each value's runs.
        intervals: of each value's gap to the lowest setting, where there is one.
    """

    label: str
    scores: Mapping[str, Sequence[float]]
    intervals: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """Losses against one param; the best line comes first.

    Attributes:
        failed: the values at which every run failed.
    """

    param: str
    lines: Sequence[PanelLine]
    failed: Sequence[str] = ()


@dataclass(frozen=True)
class Curve:
    """A run's loss by tokens seen.

    Attributes:
        series: its setting's rank from 0; None for a run without a result.
    """

    label: str
    series: int | None
    points: Sequence[tuple[int, float]]


def panels(sweep: Sweep) -> list[Panel]:
    """One for each swept param of which two values or more have a result."""
    found = []
    for key in sweep.swept:
        if len({setting.values[key] for setting in sweep.settings}) > 1:
            lines = _lines(sweep, key)
            good = {setting.values[key] for setting in sweep.settings}
            failed = {t.run.params[key] for t in sweep.failed if key in t.run.params} - good
            found.append(Panel(short(key), tuple(lines), tuple(sorted(map(shown, failed)))))
    return found


def _lines(sweep: Sweep, key: str) -> list[PanelLine]:
    """The settings that differ in this param alone make a line; the best setting's comes first."""
    groups: dict[str, list[Setting]] = {}
    for setting in sweep.settings:
        others = {name: value for name, value in setting.values.items() if name != key}
        groups.setdefault(in_words(others), []).append(setting)
    return [
        PanelLine(
            label,
            {shown(setting.values[key]): setting.scores for setting in settings},
            {
                shown(setting.values[key]): setting.gap.interval
                for setting in settings
                if setting.gap and setting.gap.interval
            },
        )
        for label, settings in groups.items()
    ]


def curves(sweep: Sweep) -> list[Curve]:
    """The best setting's first; those of failed and unfinished runs last."""
    found = [
        Curve(in_words(setting.values) or trial.run.name, series, _finite(trial))
        for series, setting in enumerate(sweep.settings)
        for trial in setting.trials
    ]
    rest = [t for t in sweep.selection.trials if score(t, sweep.metric) is None]
    found += [Curve("failed or unfinished", None, _finite(trial)) for trial in rest]
    return [curve for curve in found if curve.points]


def _finite(trial: Trial) -> tuple[tuple[int, float], ...]:
    return tuple((x, y) for x, y in trial.run.curve if math.isfinite(y) and abs(y) < LARGEST)


def draw_panel(panel: Panel, path: Path, ylabel: str, size: tuple[float, float] = WIDE) -> None:
    """Losses against a param; every run a mark, the line through the means of seeds.

    A bar from the lowest mean plus the low end of a setting's gap to plus its high end says what
    the words do: it reaches down to the level of the lowest where the two are not distinguished.
    """
    with drawing(path, size) as figure:
        _panel(figure.add_subplot(), panel, ylabel)
        _legend(figure)


def draw_curves(curves: Sequence[Curve], path: Path, size: tuple[float, float] = WIDE) -> None:
    """All runs' curves over each other, the seeds of a setting in one colour."""
    with drawing(path, size) as figure:
        _curves(figure.add_subplot(), curves)
        _legend(figure)


def draw_sweep(
    panels: Sequence[Panel],
    curves: Sequence[Curve],
    path: Path,
    ylabel: str,
    more: Sequence[Callable[[Axes], None]] = (),
) -> None:
    """All figures in one picture; `more` draws those of a ladder."""
    count = len(panels) + bool(curves) + len(more)
    assert count, "a sweep without results has no figure"
    with drawing(path, (WIDE[0], WIDE[1] * count)) as figure:
        parts = figure.subfigures(count, squeeze=False)[:, 0]
        for part, panel in zip(parts, panels, strict=False):
            _panel(part.add_subplot(), panel, ylabel)
            _legend(part)
        if curves:
            _curves(parts[len(panels)].add_subplot(), curves)
            _legend(parts[len(panels)])
        for part, draw in zip(parts[count - len(more) :], more, strict=True):
            draw(part.add_subplot())


def _panel(axes: Axes, panel: Panel, ylabel: str) -> None:
    values = list(dict.fromkeys(v for line in panel.lines for v in line.scores))
    place = _places([*values, *panel.failed])
    for number, line in enumerate(panel.lines):
        _line(axes, line, place, number)
    _ring_lowest(axes, panel, place)
    _mark_failed(axes, panel, place)
    _intervals(axes, panel, place)
    _ticks(axes, place, panel.param)
    axes.set(xlabel=shortened(panel.param, 60), ylabel=shortened(ylabel, 60))
    axes.spines["top"].set_visible(False)


def _line(axes: Axes, line: PanelLine, place: Mapping[str, float], number: int) -> None:
    style, rank = _style(number), 0.1 * min(number, 9)  # the best on top
    values = sorted(line.scores, key=place.__getitem__)
    means = [_mean(line.scores[value]) for value in values]
    axes.plot([place[v] for v in values], means, color=style["color"], zorder=3 - rank)
    points = [(place[v], score) for v in values for score in line.scores[v]]
    x, y = zip(*points, strict=True)
    axes.plot(
        x,
        y,
        linestyle="none",
        markersize=7,
        alpha=0.85,
        zorder=5 - rank,
        label=_named(line.label),
        **style,
    )


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def _style(series: int | None) -> dict[str, Any]:
    if series is None or series >= len(SERIES):
        return {"color": COLOURS["muted"], "marker": "."}
    return {"color": COLOURS[SERIES[series]], "marker": MARKERS[series]}


def _places(values: Sequence[str]) -> dict[str, float]:
    """Where each value stands: numbers at their place, anything else in a row."""
    numbers = {value: _number(value) for value in values}
    if all(number is not None for number in numbers.values()):
        return {value: number for value, number in numbers.items() if number is not None}
    numeric = sorted((n, v) for v, n in numbers.items() if n is not None)
    words = sorted(v for v, n in numbers.items() if n is None)
    return {value: float(i) for i, value in enumerate([*(v for _, v in numeric), *words])}


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _is_log(place: Mapping[str, float], param: str) -> bool:
    numbers = list(place.values())
    if min(numbers) <= 0 or any(_number(value) is None for value in place):
        return False
    return param in ALWAYS_LOG or max(numbers) / min(numbers) >= 8


def _ticks(axes: Axes, place: Mapping[str, float], param: str) -> None:
    """The values that were tried are the ticks."""
    if _is_log(place, param):
        axes.set_xscale("log")
    shown = sorted(place.items(), key=lambda pair: pair[1])
    shown = shown[:: math.ceil(len(shown) / TICKS)]
    axes.set_xticks([x for _, x in shown], [_short(value) for value, _ in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    if len(place) > 1 and not _is_log(place, param):
        margin = 0.08 * (max(place.values()) - min(place.values()))
        axes.set_xlim(min(place.values()) - margin, max(place.values()) + margin)


def _short(value: str) -> str:
    """`0.0004` -> `4e-4`, so that neighbours on a log axis have room."""
    number = _number(value)
    if number and abs(number) < 0.01:
        value = re.sub(r"e([+-])0", r"e\1", f"{number:.2e}").replace(".00e", "e")
    return shortened(running(value), 14)


def _intervals(axes: Axes, panel: Panel, place: Mapping[str, float]) -> None:
    """Each gap's interval as a bar, cut where it leaves the axes; lines stand beside each other."""
    lowest = min(_mean(scores) for line in panel.lines for scores in line.scores.values())
    figure = axes.get_figure(root=True)
    assert figure is not None
    axes.set_ylim(axes.get_ylim())
    for number, line in enumerate(panel.lines):
        aside = ScaledTranslation(4 / 72 * (number + 1), 0, figure.dpi_scale_trans)
        for value, (low, high) in line.intervals.items():
            axes.plot(
                [place[value]] * 2,
                [lowest + low, lowest + high],
                color=_style(number)["color"],
                linewidth=1.2,
                marker="_",
                markersize=5,
                transform=axes.transData + aside,
                zorder=4,
            )
    if any(line.intervals for line in panel.lines):
        axes.axhline(lowest, color=COLOURS["muted"], linewidth=1.0, linestyle=(0, (1, 2)))


def _ring_lowest(axes: Axes, panel: Panel, place: Mapping[str, float]) -> None:
    """Ring the lowest mean, or those that are equally low, and write its value."""
    scores = panel.lines[0].scores
    means = {value: _mean(found) for value, found in scores.items()}
    mean = min(means.values())
    best = [value for value in means if means[value] == mean]
    value = best[0]
    axes.plot(
        [place[value] for value in best],
        [mean] * len(best),
        linestyle="none",
        marker="o",
        markersize=15,
        markerfacecolor="none",
        markeredgecolor=COLOURS["ink"],
        markeredgewidth=1.2,
        zorder=5,
    )
    axes.annotate(
        f"lowest {shown_number(mean)}",
        (place[value], min(scores[value])),
        xytext=(0, -13),
        textcoords="offset points",
        ha="center",
        va="top",
    )
    axes.margins(y=0.22)


def _mark_failed(axes: Axes, panel: Panel, place: Mapping[str, float]) -> None:
    if not panel.failed:
        return
    axes.plot(
        [place[value] for value in panel.failed],
        [1.0] * len(panel.failed),
        transform=axes.get_xaxis_transform(),
        linestyle="none",
        marker="x",
        markersize=9,
        markeredgewidth=2,
        color=COLOURS["muted"],
        clip_on=False,
        label=_named("failed"),
        zorder=5,
    )


def _curves(axes: Axes, curves: Sequence[Curve]) -> None:
    """Those without a result are dashed; beyond six settings the rest are muted."""
    _bands(axes, curves)
    named: set[str] = set()
    for curve in curves:
        series = curve.series
        coloured = series is not None and series < len(SERIES)
        label = curve.label if coloured or series is None else "other settings"
        x, y = zip(*curve.points, strict=True)
        axes.plot(
            x,
            y,
            color=_style(series)["color"],
            linewidth=1.6 if coloured else 1.0,
            linestyle="-" if series is not None else (0, (4, 2)),
            marker="o" if len(curve.points) < 3 else None,
            zorder=4 - 0.1 * min(series, 9) if series is not None else 2,
            label=_named("" if label in named else label),
        )
        named.add(label)
    axes.set_ylim(*_settled_range(curves))
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seen, _: compact(seen)))
    axes.set(xlabel="tokens seen", ylabel="validation loss, nats per token")
    axes.spines["top"].set_visible(False)


def _bands(axes: Axes, curves: Sequence[Curve]) -> None:
    """From the lowest to the highest seed of each setting, at the steps that all of them have."""
    for series, name in enumerate(SERIES):
        runs = [dict(curve.points) for curve in curves if curve.series == series]
        steps = sorted(set.intersection(*map(set, runs))) if len(runs) > 1 else []
        low, high = ([end(run[x] for run in runs) for x in steps] for end in (min, max))
        if steps:
            axes.fill_between(
                steps, low, high, color=COLOURS[name], alpha=0.15, linewidth=0, zorder=1
            )


def _settled_range(curves: Sequence[Curve]) -> tuple[float, float]:
    """The range of the losses without the common fall at the start."""
    ranked = [curve for curve in curves if curve.series is not None] or curves
    end = max(x for curve in ranked for x, _ in curve.points)
    settled = [y for curve in ranked for x, y in curve.points if x >= SETTLED * end]
    low, high = min(settled), max(settled)
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin


def _named(label: str) -> str | None:
    """The label of a line in `_legend`; without the blank, one that begins with `_` is hidden."""
    return f" {running(label)}" if label else None


def _legend(figure: Figure | SubFigure) -> None:
    """A legend below the axes; none where one line needs no name."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if not handles:
        return
    whole = figure.get_figure(root=True)
    assert whole is not None
    width, height = whole.get_size_inches()
    names = [shortened(label.strip(), int(width / LETTER) - HANDLE) for label in labels]
    longest = (max(map(len, names)) + HANDLE) * LETTER
    columns = max(1, min(3 if width > NARROW[0] else 1, int(width / longest)))
    figure.legend(
        handles,
        names,
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=9,
        handlelength=1.6,
    )
    if whole is figure:  # the names take no room from the drawing
        whole.set_size_inches(width, height + LEGEND_LINE * math.ceil(len(labels) / columns))
