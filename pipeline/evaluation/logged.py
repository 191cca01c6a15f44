"""What a run of evaluate or baseline logs of a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.params import Params
from pipeline.reports import PromptCompletion, SplitLosses
from pipeline.tokens.splits import Splits
from pipeline.tracking.open_run import Run


def evaluation_params(params: Params) -> dict[str, Any]:
    """What a measurement depends on beside model and tokens."""
    return {
        "evaluate.batch_size": params.evaluate.batch_size,
        "evaluate.windows": params.evaluate.windows,
        "compare.prompts": params.compare.prompts,
    }


def log_losses(run: Run, version: str, losses: SplitLosses) -> None:
    for split, of_split in losses.by_split.items():
        numbers = of_split.model_dump().items()
        run.log_metrics({f"{version}/{split}_{name}": value for name, value in numbers})


def link_losses(
    run: Run, splits: Splits, losses: SplitLosses, weights: str, **external: Any
) -> None:
    """Log the losses with model and data sets, by which MLflow ranks; as `Run.log_measured`."""
    numbers = {"loss", "perplexity", "bits_per_byte"}
    run.log_measured(
        weights,
        [
            (
                splits.windows[split].dataset(splits.measured[split]),
                {f"{split}_{k}": v for k, v in of_split.model_dump(include=numbers).items()},
            )
            for split, of_split in losses.by_split.items()
        ],
        **external,
    )


def sample_rows(weights: str, completions: Sequence[PromptCompletion]) -> list[dict[str, Any]]:
    """The completions as rows of the table of samples that every run has."""
    settings = {"weights": weights, "temperature": 0.0}
    return [{**completion.model_dump(), **settings} for completion in completions]
