"""What a sweep came to, in sentences; a lead is claimed where `statistics` finds one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.numbers import counted, gap
from pipeline.numbers import shown as shown_number
from pipeline.sweep.ranking import Gap, Setting, Sweep, as_number
from pipeline.sweep.statistics import MOST_SEEDS, POWER

NAMED = 2  # settings; a sentence holds no more
ADVISED = 3  # seeds, at least: the spread of two says too little
ALIKE = 1.5  # standard errors within this factor are alike
METRICS = {
    "best/val_loss": "validation loss",
    "last/val_loss": "last validation loss",
    "ema/val_loss": "validation loss of the averaged weights",
}


def conclusion(sweep: Sweep) -> str:
    """The lowest setting, which others it leads, what would show more, and what else to know."""
    total = len(sweep.selection.trials)
    sentences = (
        [_lowest(sweep)] if sweep.best else [f"None of {counted(total, 'run')} has a result."]
    )
    sentences += [*_rivals(sweep), *_sources(sweep), *edges(sweep)]
    if sweep.selection.averaged:
        sentences.append(
            "train.ema_decay differs too, and changes no weight: --metric ema/val_loss judges the "
            "averages."
        )
    if sweep.failed:
        sentences.append(f"{len(sweep.failed):,} of {counted(total, 'run')} failed.")
    if sweep.unfinished:
        sentences.append(f"{counted(len(sweep.unfinished), 'run')} not finished.")
    return " ".join(sentences)


def _lowest(sweep: Sweep) -> str:
    best, *others = sweep.settings
    equal = sweep.ties
    rest = others[len(equal) - 1 :]
    what = METRICS.get(sweep.metric, sweep.metric)
    reached = f"{what} {result(best)}"
    total = len(sweep.settings)
    if not sweep.swept:
        return f"One setting: {reached}."
    if not others:
        return f"{in_words(best.values)} is the only setting with a result: {reached}."
    if not rest:
        return f"All {total} settings come to the same: {reached}."
    if len(equal) > 1:
        return (
            f"{len(equal)} of {total} settings are lowest, with equal losses: "
            f"{'; '.join(in_words(setting.values) for setting in equal)}: {reached}, "
            f"{_below(best, rest[0])}."
        )
    if sweep.has_lead:
        assert rest[0].gap is not None, "a lead is over a setting that was compared"
        return (
            f"{in_words(best.values)} is best of {total} settings: {reached}, lower by "
            f"{with_interval(rest[0].gap)} than {in_words(rest[0].values)}."
        )
    return (
        f"{in_words(best.values)} is lowest of {total} settings: {reached}, "
        f"{_below(best, rest[0])}."
    )


def _below(best: Setting, other: Setting) -> str:
    """How far the next setting is behind, where the lowest does not lead all others."""
    behind = f"{gap(other.mean - best.mean)} below {in_words(other.values)}"
    if other.gap is None:
        return f"{behind}; one seed does not show how much of that is chance"
    if other.gap.is_lead:
        return behind
    if best.failed or other.failed:
        return f"{behind}; seeds that ended without a result make that no comparison"
    if other.gap.interval is None:
        return f"{behind}; these seeds do not show how much of that is chance"
    return f"{behind}: seeds alone can make as much"


def _rivals(sweep: Sweep) -> list[str]:
    """Which settings cannot be distinguished from the lowest, and what the next one's gap takes."""
    compared = [setting.gap for setting in sweep.settings if setting.gap is not None]
    if not sweep.rivals or not compared:
        return []
    best, following = sweep.settings[0], sweep.settings[len(sweep.ties)]
    others = [in_words(rival.values) for rival in sweep.rivals if rival is not following]
    sentences = []
    if others:
        beginning = "Nor do seeds" if following in sweep.rivals else "These seeds do not"
        more = [f"{len(others) - NAMED:,} more"] if len(others) > NAMED else []
        which = "it" if len(sweep.ties) == 1 else "them"
        named = "; ".join(others[:NAMED] + more)
        sentences.append(f"{beginning} distinguish {which} from {named}.")
    if led := sum(gap.is_lead for gap in compared):
        sentences.append(f"The lead over {counted(led, 'other')} is more than chance.")
    return [*sentences, *_seeds(best, sweep.rivals[0])]


def _seeds(best: Setting, rival: Setting) -> list[str]:
    """How many seeds the gap to the nearest rival takes."""
    if rival.gap is None or rival.gap.interval is None:
        return []
    needed = rival.gap.seeds
    if needed is None:
        seeds = f"more than {MOST_SEEDS:,} seeds of each"
    else:
        more = needed - min(len(best.scores), len(rival.scores))
        seeds = f"{needed:,} seeds of each, {more:,} more,"
    return [
        f"If the gap to {in_words(rival.values)} is the true one, {seeds} would show it "
        f"({100 * POWER:.0f} % power)."
    ]


def _sources(sweep: Sweep) -> list[str]:
    """Whether more seeds or more text would narrow the gap to the next setting."""
    found = sweep.sources
    if found is None or len(sweep.ties) > 1:
        return []
    best, other = sweep.settings[:2]
    if min(len(best.scores), len(other.scores)) < ADVISED:
        return []
    seeds, text = (f"±{shown_number(error)}" for error in (found.seeds, found.text))
    if found.seeds > ALIKE * found.text:
        advice = "more seeds would narrow that, more validation text hardly"
    elif found.text > ALIKE * found.seeds:
        advice = "more validation text would narrow that, more seeds hardly"
    else:
        advice = "more seeds and more validation text would both narrow that"
    sentences = [
        f"Seeds make the gap to {in_words(other.values)} uncertain by {seeds}, the choice of "
        f"validation text by {text}: {advice}."
    ]
    if sweep.has_lead and other.mean - best.mean < 2 * found.total:
        sentences.append("The lead is one on this text; another text may not show it.")
    return sentences


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
    seeds = counted(len(setting.scores), "seed")
    if setting.failed:
        seeds = f"{len(setting.scores)} of {len(setting.scores) + setting.failed} seeds"
    return f"{shown_number(setting.mean)} ± {shown_number(setting.spread)} over {seeds}"


def with_interval(found: Gap) -> str:
    """`0.120 [0.050, 0.190]`."""
    return gap(found.size) + (f" {in_brackets(*found.interval)}" if found.interval else "")


def in_brackets(low: float, high: float) -> str:
    return f"[{shown_number(low)}, {shown_number(high)}]"


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
