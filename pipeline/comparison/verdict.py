"""The comparison in one sentence, made of what was measured and of nothing else."""

from __future__ import annotations

from pipeline.comparison.table import ComparedModel, Comparison
from pipeline.gpt2.sizes import Size
from pipeline.numbers import shown
from pipeline.reports import EvaluationReport

MEMORISED = 0.05
"""Nats per token that validation loss must rise after its best for training to have memorised."""

SAME_SIZE = 0.02
"""How far a model's parameters may lie from its size's before it is called a stand-in."""

_WORDS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def comparison_verdict(comparison: Comparison, epochs: float, start: str = "scratch") -> str:
    """What training reached, and what GPT-2 reaches on the same text.

    What it claims is decided by steps and losses as they were measured; rounding is for show.

    Args:
        epochs: how many were trained, which `max_steps` and early stopping may end within one.
        start: what training started from.
    """
    return f"{_trained(comparison, epochs, start)}; {_gpt2(comparison)}."


def listed(words: list[str]) -> str:
    """`124M`, `124M and 774M`, `124M, 774M and 1558M`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _trained(comparison: Comparison, epochs: float, start: str) -> str:
    ours, training = comparison.evaluation, comparison.training
    lowest = min(ours.best.val, ours.val, key=lambda losses: losses.loss)  # over the whole split
    in_steps = epochs < 1
    length = training.steps if in_steps else epochs
    verb = "s" if length == 1 else ""
    unit = ("step" if in_steps else "epoch") + ("" if length == 1 else "s")
    many = f"{_number(length).capitalize()} {unit} from {start}"
    if not lowest.loss < ours.untrained.val.loss:
        return (
            f"{many} never predict{verb} the validation text better than the weights that "
            f"{'it' if verb else 'they'} began with, whose perplexity is "
            f"{_perplexity(ours.untrained.val.perplexity)}"
        )
    reached = _perplexity(lowest.perplexity)
    sentence = f"{many} reach{'es' if verb else ''} a validation perplexity of {reached}"
    if training.best.step == training.steps:  # lower than at every evaluation before
        return f"{sentence}, still falling at the end"
    if ours.val.loss < ours.best.val.loss:  # which `train.eval_windows` chose on some windows
        return f"{sentence}, lowest with the last weights"
    sentence += f", best at {_place(comparison, epochs)}"
    return sentence + (f", and then memorise{verb}" if _memorised(ours) else "")


def _place(comparison: Comparison, epochs: float) -> str:
    """`epoch 6`, or `step 3` where the epoch would round to the beginning or the end."""
    best = comparison.training.best
    epoch = round(best.epoch, 0 if epochs >= len(_WORDS) // 2 else 1)
    return f"epoch {epoch:g}" if 0 < epoch < epochs and epochs >= 1 else f"step {best.step:,}"


def _memorised(ours: EvaluationReport) -> bool:
    """Validation loss rose after its best while training loss went on falling."""
    rose = ours.val.loss - ours.best.val.loss >= MEMORISED
    return rose and ours.train.loss < ours.best.train.loss


def _gpt2(comparison: Comparison) -> str:
    asked = [(size, comparison.models[key]) for key, size in comparison.sizes.items()]
    measured = [(size, model) for size, model in asked if model.val is not None]
    missing = [size.name for size, model in asked if model.val is None]
    if not asked:
        return "no GPT-2 was asked for (gpt2.sizes is empty)"
    if not measured:
        return f"GPT-2 could not be measured beside it ({listed(missing)} unavailable)"
    smallest, *others = measured
    sentence = f"{_name(*smallest)} predicts this text with a perplexity of {_reached(smallest[1])}"
    if others:
        largest = others[-1]
        sentence += f" and {_name(*largest)} with {_reached(largest[1])}"
    return sentence + (f" ({listed(missing)} unavailable)" if missing else "")


def _name(size: Size, model: ComparedModel) -> str:
    """`GPT-2 small, 124M,` unless a checkpoint of another size stands in for it."""
    assert model.parameters is not None
    if abs(model.parameters / size.hparams.parameters - 1) < SAME_SIZE:
        return f"{size.title}, {size.name},"
    return f"a stand-in for {size.title}, {model.parameters:,} parameters,"


def _reached(model: ComparedModel) -> str:
    assert model.val is not None
    return _perplexity(model.val.perplexity)


def _perplexity(perplexity: float) -> str:
    """`457.3` -> `457`, `22.64` -> `23`, `8.51` -> `8.5`."""
    return shown(perplexity, 0 if perplexity >= 20 else 1)


def _number(count: float) -> str:
    """`10` -> `ten`, `12` -> `12`, `4.46` -> `4.5`."""
    if count != int(count):
        return f"{count:,.1f}"
    return _WORDS[int(count)] if count < len(_WORDS) else f"{count:,.0f}"
