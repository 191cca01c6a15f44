"""The scratch model's losses: untrained, at its best, and at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.model.gpt import GPT
from pipeline.model.perplexity import Losses, measure
from pipeline.model.saved import load_config, load_model
from pipeline.model.start import Start
from pipeline.params import Gpt2
from pipeline.tokens.windows import Windows
from pipeline.weights import find_start, starting_model

VERSIONS = ("untrained", "best", "last")


def load_version(folder: Path, version: str, gpt2: Gpt2 | None = None) -> GPT:
    """`untrained` (the weights of step 0, built again), `best` or `last`."""
    if version == "untrained":
        start = Start.load(folder)
        source = find_start(start.init_from)
        return starting_model(load_config(folder), start, source, gpt2).eval()
    return load_model(folder, "best" if version == "best" else "last")


def measure_splits(
    model: GPT, splits: dict[str, Windows], batch_size: int, tell: Callable[[int], object]
) -> dict[str, Losses]:
    """The losses over each split; `tell` hears of every window that is done."""
    return {
        name: measure(model, windows, batch_size, progress=tell) for name, windows in splits.items()
    }


def as_report(measured: dict[str, dict[str, Losses]], splits: dict[str, Windows]) -> dict[str, Any]:
    """`evaluate.json`: the last weights' losses at the top, best and untrained beside them."""
    numbers = {
        version: {split: losses.as_dict() for split, losses in by_split.items()}
        for version, by_split in measured.items()
    }
    any_windows = next(iter(splits.values()))
    return {
        "corpus_sha256": any_windows.tokens.meta["corpus_sha256"],
        "context_length": any_windows.context_length,
        **numbers["last"],
        "best": numbers["best"],
        "untrained": numbers["untrained"],
    }
