"""A sweep's settings, best first, each with its mean and spread over seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.sweep.selection import Selection, Trial, swept_params

SEED = "seed"
LARGEST = 1e300  # MLflow keeps an infinity as the largest float; sums of what is near it overflow


@dataclass(frozen=True)
class Setting:
    """Trials that differ in nothing but their seed.

    Attributes:
        values: of the swept params, as text.
        trials: those that count, best first.
        scores: their losses, ascending.
    """

    values: dict[str, str]
    trials: tuple[Trial, ...]
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def spread(self) -> float | None:
        """The sample's standard deviation; None for a single seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

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
    """

    selection: Selection
    metric: str
    swept: tuple[str, ...]
    settings: tuple[Setting, ...]
    failed: tuple[Trial, ...]
    unfinished: tuple[Trial, ...]

    @property
    def best(self) -> Setting | None:
        return self.settings[0] if self.settings else None

    @property
    def ties(self) -> Sequence[Setting]:
        """The settings whose mean is the lowest: more than one where their losses are equal."""
        return [setting for setting in self.settings if setting.mean == self.settings[0].mean]

    def as_json(self) -> dict[str, Any]:
        """Everything, for machines; numbers that are none are null."""
        return {
            "commit": self.selection.commit,
            "corpus": self.selection.corpus,
            "corpus_sha256": self.selection.digest,
            "metric": self.metric,
            "swept": list(self.swept),
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
    return Sweep(
        selection=selection,
        metric=metric,
        swept=tuple(swept),
        settings=tuple(_settings(counted, swept, metric)),
        failed=tuple(trial for t in ended if (trial := _explained(t, metric)).error),
        unfinished=tuple(t for t in selection.trials if t.state == "unfinished"),
    )


def _settings(trials: Sequence[Trial], swept: Sequence[str], metric: str) -> list[Setting]:
    groups: dict[tuple[str, ...], list[tuple[float, Trial]]] = {}
    for trial in trials:
        value = score(trial, metric)
        assert value is not None, "only trials that count are grouped"
        values = tuple(trial.run.params.get(key, "") for key in swept)
        groups.setdefault(values, []).append((value, trial))
    settings = []
    for values, scored in groups.items():
        scored.sort(key=lambda pair: pair[0])
        scores, counted = zip(*scored, strict=True)
        settings.append(Setting(dict(zip(swept, values, strict=True)), counted, scores))
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
