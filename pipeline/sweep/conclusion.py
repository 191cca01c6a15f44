"""What a sweep came to, in sentences; a lead that chance alone could make is called so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipeline.numbers import counted, gap
from pipeline.numbers import shown as shown_number
from pipeline.sweep.ranking import Setting, Sweep, as_number

METRICS = {"best/val_loss": "validation loss", "last/val_loss": "last validation loss"}


def conclusion(sweep: Sweep) -> str:
    """The best setting, how far ahead it is, and what else to know."""
    total = len(sweep.selection.trials)
    sentences = [_best(sweep)] if sweep.best else [f"None of {counted(total, 'run')} has a result."]
    sentences += edges(sweep)
    if sweep.failed:
        sentences.append(f"{len(sweep.failed):,} of {counted(total, 'run')} failed.")
    if sweep.unfinished:
        sentences.append(f"{counted(len(sweep.unfinished), 'run')} not finished.")
    return " ".join(sentences)


def _best(sweep: Sweep) -> str:
    best, *others = sweep.settings
    equal = sweep.ties
    rest = others[len(equal) - 1 :]
    what = METRICS.get(sweep.metric, sweep.metric)
    reached = f"{what} {result(best)}"
    if not sweep.swept:
        return f"One setting: {reached}."
    if not others:
        return f"{in_words(best.values)} is the only setting with a result: {reached}."
    total = len(sweep.settings)
    if not rest:
        return f"All {total} settings come to the same: {reached}."
    if len(equal) > 1:
        return (
            f"{len(equal)} of {total} settings are best, with equal losses: "
            f"{'; '.join(in_words(setting.values) for setting in equal)}: {reached}, "
            f"{_lead(best, rest[0])}."
        )
    return (
        f"{in_words(best.values)} is best of {total} settings: {reached}, {_lead(best, rest[0])}."
    )


def _lead(best: Setting, other: Setting) -> str:
    """How far the next setting is behind, and whether seeds alone make as much."""
    lead = other.mean - best.mean
    behind = f"{gap(lead)} below {in_words(other.values)}"
    if best.spread is None or other.spread is None:
        return f"{behind}; one seed does not show how much of that is chance"
    noise = math.hypot(
        best.spread / math.sqrt(len(best.scores)), other.spread / math.sqrt(len(other.scores))
    )
    if lead < 2 * noise:
        return f"{behind}: no more than seeds alone make"
    return behind


def edges(sweep: Sweep) -> list[str]:
    """Where the best value is the lowest or highest that was tried, the search is not over."""
    sentences: list[str] = []
    if len(sweep.ties) > 1:
        return sentences
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
        return shown_number(setting.mean)
    return (
        f"{shown_number(setting.mean)} ± {shown_number(setting.spread)} over "
        f"{counted(len(setting.scores), 'seed')}"
    )


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


def listed(keys: Sequence[str]) -> str:
    """The swept params by their short names; `seeds` where there are none."""
    return ", ".join(short(key) for key in keys) or "seeds"
