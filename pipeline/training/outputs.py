"""What a training leaves behind: weights, history, figure and summary."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import pandas as pd

from pipeline.model.gpt import GPT
from pipeline.model.saved import FILES, OPTIMIZER, save_config, save_weights, save_whole
from pipeline.model.start import Start
from pipeline.numbers import counted, gap, shown
from pipeline.plots.curves import loss_curves
from pipeline.reports import (
    HISTORY_COLUMNS,
    AverageEvaluation,
    BestEvaluation,
    HistoryRow,
    LastEvaluation,
    StepLosses,
    Training,
)
from pipeline.system.checksums import SUMS, write_sums
from pipeline.system.files import write_text
from pipeline.training.loop import Trainer


def save_training(
    folder: Path,
    trainer: Trainer,
    start: Start,
    on_saved: Callable[[str], str | None] = lambda name: None,
) -> None:
    """Write the folder of a trained model: config, start, weights, optimizer.

    Args:
        on_saved: called with each large file's name, once it is there; may return its SHA-256.
    """
    assert trainer.best_weights is not None, "a training evaluates at step 0"
    assert trainer.last_weights is not None, "a training keeps them at its end"
    best, last = trainer.best_weights.tensors, trainer.last_weights.tensors
    for name in (SUMS, FILES["ema"]):
        (folder / name).unlink(missing_ok=True)  # an earlier training's
    save_config(folder, trainer.model.config)
    start.save(folder)
    save_weights(folder, best, "best")
    digests = {FILES["best"]: on_saved(FILES["best"])}
    save_weights(folder, last, "last")
    digests[FILES["last"]] = on_saved(FILES["last"])
    if trainer.last_average:
        save_weights(folder, trainer.last_average, "ema")
        digests[FILES["ema"]] = on_saved(FILES["ema"])
    save_whole(folder / OPTIMIZER, trainer.last_optimizer)
    digests[OPTIMIZER] = on_saved(OPTIMIZER)
    write_sums(folder, digests)


def write_history(path: Path, history: Sequence[HistoryRow]) -> None:
    """`history.csv`; floats in full, so that they equal MLflow's."""
    rows = [",".join(repr(value) for value in asdict(row).values()) for row in history]
    write_text(path, "\n".join([",".join(HISTORY_COLUMNS), *rows]) + "\n")


def draw_history(path: Path, history: Sequence[HistoryRow], tokens_per_epoch: int) -> None:
    """The loss curves."""
    table = pd.DataFrame([asdict(row) for row in history])
    loss_curves(table, path, tokens_per_epoch=tokens_per_epoch)


def summary(
    model: GPT,
    history: Sequence[HistoryRow],
    best: HistoryRow,
    steps: Sequence[float],
    ema_val_loss: float | None = None,
) -> Training:
    """What `train.json` holds.

    Args:
        steps: the losses of the last steps.
        ema_val_loss: of the averaged weights, at the last evaluation.
    """
    last = history[-1]
    return Training(
        parameters=model.count_parameters(),
        steps=last.step,
        tokens_seen=last.tokens_seen,
        best=BestEvaluation(step=best.step, epoch=best.epoch, val_loss=best.val_loss),
        last=LastEvaluation(train_loss=last.train_loss, val_loss=last.val_loss),
        overfit=last.val_loss - best.val_loss,
        step_losses=StepLosses(steps=len(steps), mean=fmean(steps)) if steps else None,
        ema=None
        if ema_val_loss is None
        else AverageEvaluation(step=last.step, val_loss=ema_val_loss),
    )


def describe_outcome(
    history: Sequence[HistoryRow], best: HistoryRow, windows: tuple[int, int] | None = None
) -> str:
    """Where the validation loss was best and how losses changed since, in a sentence.

    What it claims is decided by steps and losses as they were measured; rounding is for show.

    Args:
        windows: of how many validation windows evaluations measure how many.
    """
    last = history[-1]
    where = f"step {best.step}" + ("" if best.step else ", before training")
    if best.epoch >= 0.05:
        where = f"epoch {best.epoch:.1f} ({where})"
    some = ""
    if windows is not None and windows[0] < windows[1]:
        some = f" over {windows[0]:,} of {counted(windows[1], 'window')}"
    found = f"validation loss{some} was best at {where}: {shown(best.val_loss)}"
    if best.step == last.step:
        more = ", the last evaluation; it may fall further with more epochs" if best.step else ""
        return found + more
    rise = last.val_loss - best.val_loss
    by = f"by {gap(rise)} " if rise > 0 else ""
    return (
        f"{found}; since then it {_change(best.val_loss, last.val_loss, by)} "
        f"while training loss {_change(best.train_loss, last.train_loss)}"
    )


def _change(before: float, after: float, by: str = "") -> str:
    """`rose by 0.290 to 6.430`, `fell to 0.590`, `ended at 0.590 too`, `became NaN`."""
    if after == before:
        return f"ended at {shown(after)} too"
    if not (math.isfinite(before) and math.isfinite(after)):
        return f"became {shown(after)}"
    return f"{'rose' if after > before else 'fell'} {by}to {shown(after)}"
