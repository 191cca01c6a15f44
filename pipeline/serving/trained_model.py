"""What the train stage tells its run of its weights; of the best ones, a model to be served.

It stands beside the stage, which dvc.yaml watches, so that a word about serving retrains nothing.

Sharp edge: params that a request leaves out are those of `sample` when the model was trained;
changing the section later trains nothing, so it changes no model that is published already.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.params import Sample
    from pipeline.reports import HistoryRow
    from pipeline.system.digests import Digests
    from pipeline.tokens.windows import Windows
    from pipeline.tracking.open_run import Run

CODE = Path(__file__).with_name("served_model.py")


def log_saved(
    run: Run,
    sampling: Sample,
    val_windows: Windows,
    best: HistoryRow,
    folder: Path,
    name: str,
    digests: Digests,
) -> None:
    """Log a file of the folder, which DVC keeps: its digests, no copy.

    Args:
        sampling: what a request to the served model leaves out.
        val_windows: what `best` was measured on.
        best: the evaluation that `best.pth` comes from; the lowest loss is champion.
    """
    from pipeline.model.saved import FILES

    if name != FILES["best"]:
        run.log_artifact(folder / name, "model", copy=False, upload=False, digests=digests)
        return
    run.log_model(
        CODE,
        folder / name,
        [folder / "config.json"],
        digests=digests,
        defaults=served_defaults(sampling),
        metrics={
            "val_loss": best.val_loss,
            "val_perplexity": math.exp(best.val_loss),
            "train_loss": best.train_loss,
            "step": best.step,
            "epoch": best.epoch,
        },
        measured_on=measured_on(val_windows),
    )


def served_defaults(settings: Sample) -> dict[str, float]:
    """`top_k` 0 keeps every token: a served model's params have types, and null has none."""
    chosen = settings.model_dump(include={"temperature", "top_k", "max_new_tokens", "seed"})
    return {name: value or 0 for name, value in chosen.items()}


def measured_on(windows: Windows) -> str:
    """Equal where losses may be compared: the corpus, its split, the windows."""
    meta = windows.tokens.meta
    length = windows.context_length
    return f"{meta['corpus_sha256']}: {len(windows)} of {length} in {len(windows.tokens)} tokens"
