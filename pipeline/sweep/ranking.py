"""A sweep's settings, lowest mean first, with spreads over seeds and gaps to the lowest."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np

from pipeline.sweep.selection import Selection, Trial, swept_params
from pipeline.sweep.sources import Sources
from pipeline.sweep.statistics import (
    LEVEL,
    Comparisons,
    Interval,
    compare,
    mean_intervals,
    seeds_needed,
)

T = TypeVar("T")
SEED = "seed"
LARGEST = 1e300  # MLflow keeps an infinity as the largest float; sums of what is near it overflow


@dataclass(frozen=True)
class Gap:
    """Of a setting's mean to the lowest, where both have two seeds or more.

    Where seeds of either ended without a loss, those that are left are the better ones: no gap is a
    lead then.

    Attributes:
        interval: at the level of its comparison; None where the seeds are too far apart, or too
            much alike, for one, or some ended without a loss.
        p: two-sided, adjusted for all comparisons.
        is_lead: whether the gap is more than seeds alone make: p is at most 0.05.
        seeds: of each that would show a true gap of this size in 80 % of sweeps; None for a lead,
            and where that takes more than 1,000.
    """

    size: float
    interval: Interval | None
    p: float
    is_lead: bool
    seeds: int | None


@dataclass(frozen=True)
class Setting:
    """Trials that differ in nothing but their seed.

    Attributes:
        values: of the swept params, as text.
        trials: those that count, best first.
        scores: their losses, ascending.
        failed: how many more ended without one, as where they diverged.
        interval: of the mean, 95 %; None for a single seed.
        gap: None of the lowest, and where it or this one has a single seed.
    """

    values: dict[str, str]
    trials: tuple[Trial, ...]
    scores: tuple[float, ...]
    failed: int = 0
    interval: Interval | None = None
    gap: Gap | None = None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def spread(self) -> float | None:
        """The sample's standard deviation; None for a single seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def seeds(self) -> tuple[str, ...]:
        """Of the trials, in their order."""
        return tuple(trial.run.params.get(SEED, "") for trial in self.trials)

    def mean_of(self, metric: str) -> float | None:
        found = [t.run.metrics[metric] for t in self.trials if metric in t.run.metrics]
        return statistics.fmean(found) if found else None


@dataclass(frozen=True)
class Sweep:
    """A sweep, read.

    Attributes:
        metric: what is compared; the lower the better.
        swept: the params that differ, the seed aside.
        settings: best first.
        failed: trials that ended with an error, or without a number.
        unfinished: trials that were killed, or are still at work.
        paired: whether settings were compared by seed.
        sources: of the uncertainty of the gap to the second; None where that is not known.
    """

    selection: Selection
    metric: str
    swept: tuple[str, ...]
    settings: tuple[Setting, ...]
    failed: tuple[Trial, ...]
    unfinished: tuple[Trial, ...]
    paired: bool = False
    sources: Sources | None = None

    @property
    def best(self) -> Setting | None:
        return self.settings[0] if self.settings else None

    @property
    def ties(self) -> Sequence[Setting]:
        """The settings whose mean is the lowest: more than one where their losses are equal."""
        return [setting for setting in self.settings if setting.mean == self.settings[0].mean]

    @property
    def rivals(self) -> Sequence[Setting]:
        """The settings that cannot be distinguished from the lowest, its equals aside."""
        rest = self.settings[len(self.ties) :]
        return [setting for setting in rest if setting.gap is None or not setting.gap.is_lead]

    @property
    def has_lead(self) -> bool:
        """Whether the lowest leads all others."""
        return len(self.ties) == 1 < len(self.settings) and not self.rivals

    def as_json(self) -> dict[str, Any]:
        """Everything, for machines; numbers that are none are null."""
        return {
            "commit": self.selection.commit,
            "corpus": self.selection.corpus,
            "corpus_sha256": self.selection.digest,
            "metric": self.metric,
            "swept": list(self.swept),
            "lead": self.has_lead,
            "level": LEVEL,
            "paired": self.paired,
            "sources": None if self.sources is None else asdict(self.sources),
            "settings": [self._setting_as_json(setting) for setting in self.settings],
            "failed": [{**self._trial_as_json(t), "error": t.error} for t in self.failed],
            "unfinished": [self._trial_as_json(trial) for trial in self.unfinished],
            "left_out": {
                "other_text": self.selection.other_text,
                "repeats": self.selection.repeats,
            },
        }

    def _setting_as_json(self, setting: Setting) -> dict[str, Any]:
        return {
            "values": {key: parsed(value) for key, value in setting.values.items()},
            "mean": setting.mean,
            "spread": setting.spread,
            "failed": setting.failed,
            "interval": setting.interval,
            "gap": None if setting.gap is None else asdict(setting.gap),
            "runs": [self._trial_as_json(trial) for trial in setting.trials],
        }

    def _trial_as_json(self, trial: Trial) -> dict[str, Any]:
        run = trial.run
        shown = [*self.swept, SEED]
        return {
            "run": run.key,
            "run_id": run.run_id,
            "name": run.name,
            "experiment": trial.experiment,
            "restored": trial.restored,
            "stage": run.stage,
            "status": run.status,
            "params": {key: parsed(run.params[key]) for key in shown if key in run.params},
            "score": score(trial, self.metric),
            "seconds": seconds(trial),
            "remarks": list(trial.remarks),
        }


def rank(selection: Selection, metric: str) -> Sweep:
    """Group the trials by what was swept, and order the groups by their mean."""
    swept = [key for key in swept_params(selection.trials) if key != SEED]
    ended = [trial for trial in selection.trials if trial.state != "unfinished"]
    counted = [t for t in selection.trials if score(t, metric) is not None]
    failed = [trial for t in ended if (trial := _explained(t, metric)).error]
    settings, paired = compared(_settings(counted, failed, swept, metric))
    return Sweep(
        selection=selection,
        metric=metric,
        swept=tuple(swept),
        settings=tuple(settings),
        failed=tuple(failed),
        unfinished=tuple(t for t in selection.trials if t.state == "unfinished"),
        paired=paired,
    )


def compared(settings: Sequence[Setting]) -> tuple[list[Setting], bool]:
    """The settings, lowest first, with intervals and gaps; whether they were paired by seed."""
    several = [setting for setting in settings if len(setting.scores) > 1]
    if not several:
        return list(settings), False
    paired = have_same_seeds(several)
    counts = [len(setting.scores) for setting in several]
    scores = np.full((len(several), max(counts)), np.nan)
    for row, setting in zip(scores, several, strict=True):
        row[: len(setting.scores)] = by_seed(setting, setting.scores)
    intervals = mean_intervals(scores)
    found = compare(scores, 0, paired=paired)
    done = iter(
        replace(
            setting,
            interval=_finite(*intervals[i]),
            gap=_gap(found, i, counts, whole=not (setting.failed or several[0].failed))
            if i and several[0] is settings[0]
            else None,
        )
        for i, setting in enumerate(several)
    )
    return [next(done) if len(setting.scores) > 1 else setting for setting in settings], paired


def _gap(found: Comparisons, place: int, counts: Sequence[int], *, whole: bool) -> Gap:
    is_lead = bool(found.lead[place]) and whole
    seeds = statistics.harmonic_mean([counts[0], counts[place]])
    return Gap(
        size=float(found.gap[place]),
        interval=_finite(found.low[place], found.high[place]) if whole else None,
        p=float(found.p[place]),
        is_lead=is_lead,
        seeds=None if is_lead or not whole else seeds_needed(found, place, seeds),
    )


def _finite(low: float, high: float) -> Interval | None:
    return (float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else None


def have_same_seeds(settings: Sequence[Setting]) -> bool:
    """Whether each has the same seeds, once."""
    return len({tuple(sorted(s.seeds)) for s in settings}) == 1 and all(
        len(set(s.seeds)) == len(s.seeds) for s in settings
    )


def by_seed(setting: Setting, items: Sequence[T]) -> list[T]:
    """Items of the setting's trials, one each, in the order of their seeds."""
    pairs = sorted(zip(setting.seeds, items, strict=True), key=lambda pair: pair[0])
    return [item for _, item in pairs]


def _settings(
    trials: Sequence[Trial], failed: Sequence[Trial], swept: Sequence[str], metric: str
) -> list[Setting]:
    def values_of(trial: Trial) -> tuple[str, ...]:
        return tuple(trial.run.params.get(key, "") for key in swept)

    groups: dict[tuple[str, ...], list[tuple[float, Trial]]] = {}
    for trial in trials:
        value = score(trial, metric)
        assert value is not None, "only trials that count are grouped"
        groups.setdefault(values_of(trial), []).append((value, trial))
    failures = Counter(map(values_of, failed))
    settings = []
    for values, scored in groups.items():
        scored.sort(key=lambda pair: pair[0])
        scores, counted = zip(*scored, strict=True)
        named = dict(zip(swept, values, strict=True))
        settings.append(Setting(named, counted, scores, failures[values]))
    return sorted(settings, key=lambda setting: setting.mean)


def score(trial: Trial, metric: str) -> float | None:
    """The finished run's number; None where it has none that could be compared."""
    value = trial.run.metrics.get(metric, math.nan)
    if trial.state != "finished" or not math.isfinite(value) or abs(value) > LARGEST:
        return None
    return value


def seconds(trial: Trial) -> float | None:
    run = trial.run
    return None if run.ended is None else (run.ended - run.started) / 1000


def _explained(trial: Trial, metric: str) -> Trial:
    """A finished run without a number has failed as well."""
    if trial.state == "failed" or score(trial, metric) is not None:
        return trial
    what = "is not a finite number" if metric in trial.run.metrics else "was never logged"
    return replace(trial, error=f"{metric} {what}")


def as_number(value: str) -> float | None:
    """A param's text as a number; None where it is another thing."""
    found = parsed(value)
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def parsed(value: str) -> Any:
    """A param's text as the value that it was."""
    try:
        return json.loads(value)
    except ValueError:
        return value
