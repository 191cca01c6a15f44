"""What puzzles people in the numbers of a training, and where it comes from, in sentences.

A remark stands where its cause is in the numbers, and nowhere else: what it claims is decided by
steps and losses as they were measured, and rounding is for show. What the verdict says (where the
validation loss was best, whether it still fell, whether the training text was memorised) is not
said again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.comparison.table import Comparison
from pipeline.numbers import counted, gap, shown
from pipeline.params import EVAL_BATCH, Params
from pipeline.reports import EvaluationReport, HistoryRow, SplitLosses, SplitReport, Training
from pipeline.tokens.frequency import loss_by_frequency
from pipeline.tokens.splits import Splits

PUZZLING = 0.01
"""Nats per token by which a loss must be above another before anyone is puzzled."""

RISEN = 0.1
"""Nats per token above the first training loss from which on a training goes wrong."""

FLAT = 0.1
"""Nats per token within which the losses of a plateau lie."""

PLATEAU = 3  # evaluations at least
PLATEAU_FROM = 0.9  # of the steps, at the latest
KNOWN = 0.5  # nats per token: below this the training text is known by heart, and flat for that
LITTLE = 0.05  # of its beginning: a loss that fell by less has hardly moved
LOW_RATE = 0.1  # of the peak
FASTER = 2.0  # so much more than at a low rate a loss fell before, in as many steps
FEW_TOKENS = 2560  # of validation: ten windows of the book's
COSTLY = 10.0  # nats that one rare token may well cost
FEW_CHARACTERS = 1.5  # per token; English has 4, German 2.4, Russian 1, Chinese 0.5

REMEDY = "lower train.learning_rate, or set train.grad_clip or train.warmup_steps"


@dataclass(frozen=True)
class RunNumbers:
    """What remarks are made of.

    Attributes:
        history: the evaluations of the training; the first is before it.
        windows: how many the training and the validation split hold (`train`, `val`).
        looked_at: how many of them each evaluation of the training measures.
        by_frequency: nats per token of the measured validation tokens, each predicted by how often
            it stands in the training text.
        characters_per_token: None where it is not known.
    """

    params: Params
    evaluation: EvaluationReport
    training: Training
    history: Sequence[HistoryRow]
    windows: Mapping[str, int]
    looked_at: Mapping[str, int]
    by_frequency: float
    characters_per_token: float | None = None

    @classmethod
    def of(
        cls,
        params: Params,
        comparison: Comparison,
        history: Sequence[HistoryRow],
        splits: Splits,
        split: SplitReport,
    ) -> RunNumbers:
        """The numbers of reports that were read, and of the tokens."""
        train, val = splits.train, splits.val
        looked_at = min(len(train), params.train.eval_batches * EVAL_BATCH)
        measured = val.spread(comparison.evaluation.val.windows)
        return cls(
            params,
            comparison.evaluation,
            comparison.training,
            history,
            windows={"train": len(train), "val": len(val)},
            looked_at={"train": looked_at, "val": len(val.spread(params.train.eval_windows))},
            by_frequency=loss_by_frequency(train.tokens, val, measured),
            characters_per_token=split.statistics.characters_per_token
            if split.statistics
            else None,
        )

    def has_learnt(self, weights: SplitLosses) -> bool:
        """Not so of the random weights of a beginning, and of what is no better."""
        started = self.evaluation.untrained.val.loss
        scratch = self.params.train.init_from == "scratch"
        return not scratch or weights.val.loss < (1 - LITTLE) * started

    @property
    def plateau(self) -> Sequence[HistoryRow]:
        """The end of the history in which the training loss is flat; empty if it is short."""
        start, lowest, highest = len(self.history), math.inf, -math.inf
        for row in reversed(self.history[1:]):
            lowest, highest = min(lowest, row.train_loss), max(highest, row.train_loss)
            if math.isnan(row.train_loss) or not highest - lowest < FLAT:
                break
            start -= 1
        found = self.history[start:]
        long = len(found) >= PLATEAU and found[0].step <= PLATEAU_FROM * found[-1].step
        return found if long else ()


def remarks(numbers: RunNumbers) -> list[str]:
    """The sentences, in the order in which a reader meets what they explain."""
    return [remark for make in REMARKS if (remark := make(numbers))]


def _few_tokens(run: RunNumbers) -> str:
    measured, held = run.evaluation.val, run.windows["val"]
    if measured.windows > 1 and measured.tokens >= FEW_TOKENS:
        return _few_looked_at(run)
    more = (
        "evaluate.windows: null measures all"
        if measured.windows < held
        else "A longer text, or a lower split.train_fraction, gives more"
    )
    return (
        f"The validation losses are of {counted(measured.windows, 'window')}, "
        f"{counted(measured.tokens, 'token')}: one token that costs a model {COSTLY:g} nats more "
        f"raises its loss by {shown(COSTLY / measured.tokens)}. {more}."
    )


def _few_looked_at(run: RunNumbers) -> str:
    windows = run.looked_at["val"]
    tokens = windows * run.evaluation.context_length
    if windows == run.windows["val"] or (windows > 1 and tokens >= FEW_TOKENS):
        return ""
    return (
        f"The validation curve, and with it the choice of the best weights, is of {windows:,} of "
        f"{counted(run.windows['val'], 'validation window')}, {counted(tokens, 'token')}: one "
        f"token that costs {COSTLY:g} nats more raises it by {shown(COSTLY / tokens)}. A higher "
        "train.eval_windows looks at more."
    )


def _training_above_validation(run: RunNumbers) -> str:
    """The same weights, both without dropout: the texts differ, or the windows looked at."""
    ours = run.evaluation
    for name, weights in (("last", ours.last), ("best", ours.best)):
        if run.has_learnt(weights) and weights.train.loss - weights.val.loss >= PUZZLING:
            return (
                f"With the {name} weights the training text takes {shown(weights.train.loss)} nats "
                f"per token and the validation text {shown(weights.val.loss)}, over "
                f"{weights.train.windows:,} and {counted(weights.val.windows, 'window')} and "
                "without dropout in either: this validation text is the easier one to predict."
            )
    last, looked_at, whole = run.history[-1], run.looked_at, ours.last
    above = last.train_loss - last.val_loss >= PUZZLING and whole.train.loss <= whole.val.loss
    measured = {name: losses.windows for name, losses in whole.by_split.items()}
    if not above or all(looked_at[name] >= measured[name] for name in looked_at):
        return ""
    return (
        f"The curves end with a training loss of {shown(last.train_loss)} above a validation loss "
        f"of {shown(last.val_loss)}, as they look at {looked_at['train']:,} of "
        f"{counted(run.windows['train'], 'training window')} and {looked_at['val']:,} of "
        f"{run.windows['val']:,} for validation. Over {measured['train']:,} and "
        f"{measured['val']:,} it is {shown(whole.train.loss)} and {shown(whole.val.loss)}."
    )


def _step_losses(run: RunNumbers) -> str:
    """`train/loss` above the validation loss, which the training loss without dropout is not."""
    steps, last = run.training.step_losses, run.history[-1]
    whole, dropout = run.evaluation.last, run.params.model.dropout
    if steps is None or not steps.mean - last.val_loss >= PUZZLING or _divergence(run):
        return ""
    without = (last.train_loss - last.val_loss, whole.train.loss - whole.val.loss)
    if not all(above < PUZZLING for above in without):
        return ""
    said = (
        f"MLflow's train/loss averages {shown(steps.mean)} over the last "
        f"{counted(steps.steps, 'step')}, above the validation loss of {shown(last.val_loss)}, "
        "as each step measures its own batch "
    )
    earlier = [row for row in run.history if row.step <= last.step - steps.steps]
    before = earlier[-1] if earlier else run.history[0]
    if dropout and before.train_loss < steps.mean:
        return said + (
            f"with dropout {dropout:g}. Without it the training loss was "
            f"{shown(before.train_loss)} at step {before.step:,} and {shown(last.train_loss)} at "
            f"the end, {shown(whole.train.loss)} over {counted(whole.train.windows, 'window')}."
        )
    if last.train_loss < before.train_loss:
        return said + (
            f"before the update that it leads to{f', with dropout {dropout:g}' * bool(dropout)}; "
            f"the training loss fell from {shown(before.train_loss)} at step {before.step:,} to "
            f"{shown(last.train_loss)}."
        )
    return ""


def _divergence(run: RunNumbers) -> str:
    first, *rest = run.history
    risen = [row for row in rest if not row.train_loss - first.train_loss < RISEN]
    if not risen or not math.isfinite(first.train_loss):
        return ""
    worst, last = max(risen, key=lambda row: _order(row.train_loss)), run.history[-1]
    before, after = run.evaluation.untrained.train.loss, run.evaluation.train.loss
    said = (
        f"The training loss was {shown(worst.train_loss)} at step {worst.step:,}, where training "
        f"began with {shown(first.train_loss)}"
    )
    if last is not worst:
        said += f", and {shown(last.train_loss)} at the end"
    said += f". At a learning rate of {run.params.train.learning_rate:g} "
    if last in risen and not after < before:
        return f"{said}the training diverged: {REMEDY}."
    if last not in risen and run.params.train.init_from == "scratch":
        return f"{said}the first steps were too large: {REMEDY}."
    return ""  # windows that others made worse, of weights that knew them


def _order(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


def _slow(run: RunNumbers) -> str:
    """A loss that falls all the time, and hardly."""
    losses = [row.train_loss for row in run.history]
    fell = losses[0] - losses[-1]
    steadily = len(losses) >= PLATEAU and all(after < before for before, after in pairwise(losses))
    scratch = run.params.train.init_from == "scratch"
    if not (scratch and steadily and fell < LITTLE * losses[0]):
        return ""
    within = "of the warm-up to" if _warm_up(run) else "at"
    return (
        f"The training loss fell at each of {counted(len(losses) - 1, 'evaluation')}, and by "
        f"{gap(fell)} only, from {shown(losses[0])} to {shown(losses[-1])}: "
        f"{counted(run.training.steps, 'step')} {within} train.learning_rate "
        f"{run.params.train.learning_rate:g} move the weights too little. Raise it, or train "
        "longer."
    )


def _no_better_than_frequency(run: RunNumbers) -> str:
    trained = run.evaluation.trained.values()
    lowest = min((losses.val.loss for losses in trained), key=_order)
    if not run.by_frequency <= lowest < run.evaluation.untrained.val.loss or _slow(run):
        return ""
    said = (
        f"The best validation loss, {shown(lowest)}, is not below {shown(run.by_frequency)}, which "
        "predicting each token by how often it stands in the training text takes: there, the model "
        "is no better than a count of tokens."
    )
    if not (plateau := run.plateau):
        return said
    losses = [row.train_loss for row in plateau]
    return said + (
        f" The training loss has stayed between {shown(min(losses))} and {shown(max(losses))} "
        f"since step {plateau[0].step:,}."
    )


def _warm_up(run: RunNumbers) -> str:
    train, steps = run.params.train, run.training.steps
    if train.warmup_steps < steps or not steps:
        return ""
    return (
        f"The learning rate rose to the end and never reached {train.learning_rate:g}: "
        f"train.warmup_steps is {train.warmup_steps:,}, and the training took "
        f"{counted(steps, 'step')}."
    )


def _decayed(run: RunNumbers) -> str:
    """A flat end where the schedule has ended, after a fall while it had not."""
    train, last = run.params.train, run.history[-1]
    low = LOW_RATE * train.learning_rate
    end = [r for r in run.history if r.step > train.warmup_steps and r.learning_rate <= low]
    if train.schedule == "constant" or len(end) < PLATEAU:
        return ""
    start = end[0]
    earlier = [row for row in run.history if row.step <= 2 * start.step - last.step]
    losses = [row.train_loss for row in end]
    changed = max(losses) - min(losses)
    if not earlier or not min(losses) >= KNOWN or not changed < FLAT:
        return ""
    fell = earlier[-1].train_loss - start.train_loss
    if not fell >= max(FASTER * changed, PUZZLING):
        return ""
    return (
        f"From step {start.step:,} on the training loss changes by {gap(changed)} nats, after a "
        f"fall of {gap(fell)} since step {earlier[-1].step:,}. From there on train.schedule "
        f"{train.schedule} has the learning rate, {train.learning_rate:g} at its peak, at "
        f"{start.learning_rate:.2g} and less: a flat end is no sign that nothing is left to learn."
    )


def _few_characters(run: RunNumbers) -> str:
    characters = run.characters_per_token
    if characters is None or characters >= FEW_CHARACTERS:
        return ""
    cut = (
        ", since characters are cut into several tokens, each shown as its bytes, such as <E9 81>"
        if characters < 1
        else ""
    )
    return (
        "GPT-2's tokens were learnt from English, where one holds about four characters. Here it "
        f"holds {characters:.2f}{cut}. So a window holds less text, and losses and perplexities "
        "per token cannot be compared with those on an English text; bits per byte can."
    )


REMARKS: tuple[Callable[[RunNumbers], str], ...] = (
    _few_tokens,
    _training_above_validation,
    _step_losses,
    _divergence,
    _slow,
    _no_better_than_frequency,
    _warm_up,
    _decayed,
    _few_characters,
)
