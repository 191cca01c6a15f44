"""What a sweep's figures show: for each swept param its losses, and every run's curve."""

from __future__ import annotations

import math

from pipeline.sweep.figures import Curve, Line, Panel
from pipeline.sweep.ranking import LARGEST, Setting, Sweep, score
from pipeline.sweep.selection import Trial
from pipeline.sweep.verdict import in_words, short, shown


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


def _lines(sweep: Sweep, key: str) -> list[Line]:
    """The settings that differ in this param alone make a line; the best setting's comes first."""
    groups: dict[str, list[Setting]] = {}
    for setting in sweep.settings:
        others = {name: value for name, value in setting.values.items() if name != key}
        groups.setdefault(in_words(others), []).append(setting)
    return [
        Line(label, {shown(setting.values[key]): setting.scores for setting in settings})
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
