"""The comparison in one sentence, made of what was measured and of nothing else."""

from __future__ import annotations

from pipeline.comparison.table import GPT2_NAMES, Comparison, Row
from pipeline.reports import Evaluation

MEMORISED = 0.05
"""Nats a token that validation loss must rise after its best for training to have memorised."""

SAME_SIZE = 0.02
"""How far a model's parameters may lie from its size's name before it is called a stand-in."""

_WORDS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def verdict(comparison: Comparison, epochs: float, start: str = "scratch") -> str:
    """What training reached and what GPT-2 makes of the same text.

    Args:
        comparison: the rows.
        epochs: how many were trained, which `max_steps` and early stopping may end within one.
        start: what training started from.
    """
    return f"{_trained(comparison, epochs, start)}; {_gpt2(comparison)}."


def _trained(comparison: Comparison, epochs: float, start: str) -> str:
    scratch, epoch = comparison.evaluation, comparison.training.best.epoch
    epochs = round(epochs, 1)
    plural = "" if epochs == 1 else "s"
    verb = "s" if epochs == 1 else ""
    many = f"{_number(epochs).capitalize()} epoch{plural} from {start}"
    if scratch.best.val.loss >= scratch.untrained.val.loss:
        return (
            f"{many} never predict{verb} the validation text better than the weights that they "
            f"began with, whose perplexity is {_perplexity(scratch.untrained.val.perplexity)}"
        )
    reached = _perplexity(scratch.best.val.perplexity)
    sentence = f"{many} reach{'es' if verb else ''} a validation perplexity of {reached}"
    if round(epoch, 1) >= epochs:
        return f"{sentence}, still falling at the end"
    digits = 0 if epochs >= len(_WORDS) // 2 else 1
    sentence += f", best at epoch {round(epoch, digits):g}"
    return sentence + (f", and then memorise{verb}" if _memorised(scratch) else "")


def _memorised(scratch: Evaluation) -> bool:
    """Validation loss rose after its best while training loss went on falling."""
    rose = scratch.val.loss - scratch.best.val.loss >= MEMORISED
    return rose and scratch.train.loss < scratch.best.train.loss


def _gpt2(comparison: Comparison) -> str:
    rows = {size: comparison.rows.get(f"gpt2_{size}") for size in GPT2_NAMES}
    asked = {size: row for size, row in rows.items() if row is not None}
    measured = {size: row for size, row in asked.items() if row.val_perplexity is not None}
    missing = [size for size in asked if size not in measured]
    if not asked:
        return "no GPT-2 was asked for (gpt2.sizes is empty)"
    if not measured:
        return f"GPT-2 could not be measured beside it ({_list(missing)} unavailable)"
    (first, smallest), *others = measured.items()
    worth = _perplexity(smallest.val_perplexity)
    sentence = f"{_name(first, smallest)} predicts this text with a perplexity of {worth}"
    if others:
        last, largest = others[-1]
        sentence += f" and {_name(last, largest)} with {_perplexity(largest.val_perplexity)}"
    return sentence + (f" ({_list(missing)} unavailable)" if missing else "")


def _name(size: str, row: Row) -> str:
    """`GPT-2 small, 124M,` unless a checkpoint of another size stands in for it."""
    assert row.parameters is not None
    millions = row.parameters / 1e6
    if abs(millions / int(size.removesuffix("M")) - 1) < SAME_SIZE:
        return f"{GPT2_NAMES[size]}, {size},"
    return f"a stand-in for {GPT2_NAMES[size]}, {row.parameters:,} parameters,"


def _perplexity(perplexity: float | None) -> str:
    """`457.3` -> `457`, `22.64` -> `23`, `8.51` -> `8.5`."""
    assert perplexity is not None
    return f"{perplexity:,.0f}" if perplexity >= 20 else f"{perplexity:.1f}"


def _number(count: float) -> str:
    """`10` -> `ten`, `12` -> `12`, `4.5` -> `4.5`."""
    is_word = count == int(count) and count < len(_WORDS)
    return _WORDS[int(count)] if is_word else f"{count:g}"


def _list(names: list[str]) -> str:
    """`124M`, `124M and 774M`, `124M, 774M and 1558M`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
