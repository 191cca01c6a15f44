"""What a sweep came to, in sentences; a lead that chance alone could make is called so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipeline.sweep.ranking import Setting, Sweep, as_number

METRICS = {"best/val_loss": "validation loss", "last/val_loss": "last validation loss"}


def conclusion(sweep: Sweep) -> str:
    """The best setting, how far ahead it is, and what else to know."""
    total = len(sweep.selection.trials)
    sentences = [_best(sweep)] if sweep.best else [f"None of {_count(total, 'run')} has a result."]
    sentences += edges(sweep)
    if sweep.failed:
        sentences.append(f"{len(sweep.failed)} of {_count(total, 'run')} failed.")
    if sweep.unfinished:
        sentences.append(f"{_count(len(sweep.unfinished), 'run')} not finished.")
    return " ".join(sentences)


def _best(sweep: Sweep) -> str:
    best, *rest = sweep.settings
    what = METRICS.get(sweep.metric, sweep.metric)
    reached = f"{what} {result(best)}"
    if not sweep.swept:
        return f"One setting: {reached}."
    if not rest:
        return f"{in_words(best.values)} is the only setting with a result: {reached}."
    return (
        f"{in_words(best.values)} is best of {len(sweep.settings)} settings: {reached}, "
        f"{_lead(best, rest[0])}."
    )


def _lead(best: Setting, other: Setting) -> str:
    """How far the next setting is behind, and whether seeds alone make as much."""
    gap = other.mean - best.mean
    behind = f"{gap:.3f} below {in_words(other.values)}"
    if best.spread is None or other.spread is None:
        return f"{behind}; one seed does not show how much of that is chance"
    noise = math.hypot(
        best.spread / math.sqrt(len(best.scores)), other.spread / math.sqrt(len(other.scores))
    )
    if gap < 2 * noise:
        return f"{behind}: no more than seeds alone make"
    return behind


def edges(sweep: Sweep) -> list[str]:
    """Where the best value is the lowest or highest that was tried, the search is not over."""
    sentences = []
    for key in sweep.swept:
        values = sorted({n for s in sweep.settings if (n := as_number(s.values[key])) is not None})
        best = as_number(sweep.settings[0].values[key]) if sweep.settings else None
        if best is None or len(values) < 3 or best not in (values[0], values[-1]):
            continue
        end, beyond = ("lowest", "lower") if best == values[0] else ("highest", "higher")
        outside = {
            n
            for trial in sweep.failed
            if (n := as_number(trial.run.params.get(key, ""))) is not None
            and (n < best if end == "lowest" else n > best)
        }
        hint = f"{beyond} ones failed" if outside else f"try {beyond} ones"
        sentences.append(f"It is the {end} {short(key)} with a result: {hint}.")
    return sentences


def result(setting: Setting) -> str:
    """`5.840 ± 0.031 over 3 seeds`; a single score alone."""
    if setting.spread is None:
        return f"{setting.mean:.3f}"
    return f"{setting.mean:.3f} ± {setting.spread:.3f} over {len(setting.scores)} seeds"


def in_words(values: Mapping[str, str]) -> str:
    """`learning_rate 0.001, dropout 0.1`."""
    return ", ".join(f"{short(key)} {shown(value)}" for key, value in values.items())


def short(key: str) -> str:
    """`train.learning_rate` -> `learning_rate`."""
    return key.rpartition(".")[2]


def shown(value: str) -> str:
    """A param's text for people: a number without its zeros."""
    number = as_number(value)
    return value if number is None else f"{number:g}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def listed(keys: Sequence[str]) -> str:
    """The swept params by their short names; `seeds` where there are none."""
    return ", ".join(short(key) for key in keys) or "seeds"
