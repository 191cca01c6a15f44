"""The comparison in one sentence, made of what was measured and of nothing else."""

from __future__ import annotations

import math

from pipeline.comparison.intervals import SPLITS
from pipeline.comparison.table import ComparedModel, Comparison, Estimate, interval_of
from pipeline.comparison.uncertainty import TOO_LITTLE
from pipeline.gpt2.sizes import Size
from pipeline.numbers import shown
from pipeline.reports import Losses

MEMORISED = 0.05
"""Nats per token that the loss must rise after its best for training to have memorised."""

SAME_SIZE = 0.02
"""How far a model's parameters may lie from its size's before it is called a stand-in."""

_WORDS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def comparison_verdict(comparison: Comparison, epochs: float, start: str = "scratch") -> str:
    """What training reached, and what GPT-2 reaches on the same text.

    On the test where there is one, which chose nothing; what is best was chosen on validation. What
    it claims is decided by steps, losses and intervals as they were measured; rounding is for show.

    Args:
        epochs: how many were trained, which `max_steps` and early stopping may end within one.
        start: what training started from.
    """
    parts = [_trained(comparison, epochs, start), _ensemble(comparison), _gpt2(comparison)]
    return f"{'; '.join(filter(None, parts))}."


def listed(words: list[str]) -> str:
    """`124M`, `124M and 774M`, `124M, 774M and 1558M`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _trained(comparison: Comparison, epochs: float, start: str) -> str:
    training = comparison.training
    in_steps = epochs < 1
    length = training.steps if in_steps else epochs
    verb = "s" if length == 1 else ""
    unit = ("step" if in_steps else "epoch") + ("" if length == 1 else "s")
    many = f"{_number(length).capitalize()} {unit} from {start}"
    text = SPLITS[comparison.judged]
    reached, untrained = (_losses(comparison, key) for key in (comparison.best, "untrained"))
    if not reached.loss < untrained.loss:
        return (
            f"{many} never predict{verb} the {text} text better than the weights that "
            f"{'it' if verb else 'they'} began with, whose perplexity is "
            f"{_perplexity(untrained.perplexity)}"
        )
    perplexity = _perplexity(reached.perplexity)
    sentence = f"{many} reach{'es' if verb else ''} a {text} perplexity of {perplexity}"
    if comparison.copied is not None:
        sentence += f" on text of which {comparison.copied:.0%} stands in training too"
    chosen = ", " if comparison.judged == "val" else ", on validation "
    if comparison.best == "scratch_ema":
        return f"{sentence}{chosen}lowest with the averaged weights"
    if training.best.step == training.steps:  # lower than at every evaluation before
        return f"{sentence}{chosen}still falling at the end"
    if comparison.best == "scratch_last":  # as `train.eval_windows` chose on some windows
        return f"{sentence}{chosen}lowest with the last weights"
    sentence += f"{chosen}best at {_place(comparison, epochs)}"
    return sentence + (f", and then memorise{verb}" if _memorised(comparison) else "")


def _losses(comparison: Comparison, key: str) -> Losses:
    losses = comparison.models[key].judged
    assert losses is not None, f"{key} was measured"
    return losses


def _place(comparison: Comparison, epochs: float) -> str:
    """`epoch 6`, or `step 3` where the epoch would round to the beginning or the end."""
    best = comparison.training.best
    epoch = round(best.epoch, 0 if epochs >= len(_WORDS) // 2 else 1)
    return f"epoch {epoch:g}" if 0 < epoch < epochs and epochs >= 1 else f"step {best.step:,}"


def _memorised(comparison: Comparison) -> bool:
    """The loss rose after its best, beyond chance, while training loss went on falling."""
    best, last = (comparison.models[key] for key in ("scratch_best", "scratch_last"))
    assert best.train is not None, "it was measured"
    assert last.train is not None, "it was measured"
    rise = interval_of(last.beside_best)
    rose = _losses(comparison, "scratch_last").loss - _losses(comparison, "scratch_best").loss
    by_chance = rise is not None and rise[0] <= 0
    return rose >= MEMORISED and not by_chance and last.train.loss < best.train.loss


def _ensemble(comparison: Comparison) -> str:
    if (row := comparison.models.get("ensemble")) is None:
        return ""
    return f"an {row.name} reaches {_reached(row)}{_beside(row.beside_best)}"


def _gpt2(comparison: Comparison) -> str:
    asked = [(size, comparison.models[key]) for key, size in comparison.sizes.items()]
    measured = [(size, model) for size, model in asked if model.reason is None]
    missing = [size.name for size, model in asked if model.reason is not None]
    if not asked:
        return "no GPT-2 was asked for (gpt2.sizes is empty)"
    if not measured:
        return f"GPT-2 could not be measured beside it ({listed(missing)} unavailable)"
    ends = [measured[0], *measured[1:][-1:]]  # the smallest and the largest
    text = "this text" if comparison.judged == "val" else "the test text"
    verbs = [f"predicts {text} with a perplexity of", "with"]
    clauses = [
        f"{_name(*one)} {verb} {_reached(one[1])}{_beside(one[1].beside_best)}"
        for one, verb in zip(ends, verbs, strict=False)
    ]
    sentence = (", and " if _beside(ends[0][1].beside_best) else " and ").join(clauses)
    asides = (
        [f"{TOO_LITTLE} for an interval"] if any(_too_little(model) for _, model in ends) else []
    )
    asides += [f"{listed(missing)} unavailable"] if missing else []
    return sentence + (f" ({'; '.join(asides)})" if asides else "")


def _beside(difference: Estimate | None) -> str:
    """`, its loss lower by 2.29 [2.10, 2.48]`: than that of our best weights."""
    interval = interval_of(difference)
    if difference is None or interval is None:
        return ""
    if interval[0] <= 0 <= interval[1]:
        return ", no difference that this text can show"
    low, high = sorted(map(abs, interval))
    places = _places(low, high)
    by, low_shown, high_shown = (shown(abs(x), places) for x in (difference.nats, low, high))
    way = "lower" if difference.nats < 0 else "higher"
    return f", its loss {way} by {by} [{low_shown}, {high_shown}]"


def _places(low: float, high: float) -> int:
    """Decimals, two or more, that keep the lower end above 0 and the ends apart."""
    smallest = min(low, high - low)
    return 2 if smallest >= 0.02 else min(max(math.ceil(-math.log10(smallest or 1e-9)) + 1, 2), 9)


def _too_little(model: ComparedModel) -> bool:
    return model.beside_best is not None and model.beside_best.uncertainty.note == TOO_LITTLE


def _name(size: Size, model: ComparedModel) -> str:
    """`GPT-2 small, 124M,` unless a checkpoint of another size stands in for it."""
    assert model.parameters is not None
    if abs(model.parameters / size.hparams.parameters - 1) < SAME_SIZE:
        return f"{size.title}, {size.name},"
    return f"a stand-in for {size.title}, {model.parameters:,} parameters,"


def _reached(model: ComparedModel) -> str:
    assert model.judged is not None, "it was measured"
    return _perplexity(model.judged.perplexity)


def _perplexity(perplexity: float) -> str:
    """`457.3` -> `457`, `22.64` -> `23`, `8.51` -> `8.5`."""
    return shown(perplexity, 0 if perplexity >= 20 else 1)


def _number(count: float) -> str:
    """`10` -> `ten`, `12` -> `12`, `4.46` -> `4.5`."""
    if count != int(count):
        return f"{count:,.1f}"
    return _WORDS[int(count)] if count < len(_WORDS) else f"{count:,.0f}"
