"""The baseline stage: one size of GPT-2, measured as our own model is, or why it cannot be.

What imports torch is imported where there is something to measure.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.gpt2.location import FileRecord, Location, locate
from pipeline.params import Gpt2, load_params
from pipeline.reports import BaselineReport, WeightsReport
from pipeline.system.files import write_text
from pipeline.system.text import quoted
from pipeline.tokens.splits import Splits
from pipeline.tokens.token_losses import kept_losses
from pipeline.tokens.tokenizer import VOCABULARY

if TYPE_CHECKING:
    from pipeline.evaluation.size import MeasuredSize


def baseline(
    params_file: Path,
    size: str,
    tokens: Path,
    weights: Path,
    report: Path,
    token_losses: Path,
    journal: Path,
) -> BaselineReport:
    """Measure one size of GPT-2 on the same tokens, windows and prompts as our model.

    Args:
        tokens: the folder of `train/`, `val/` and perhaps `test/`.
        weights: `reports/gpt2/SIZE.json`.
        report: the JSON file to write.
        token_losses: the folder of losses by token to write.
        journal: the folder of the run's journal to write.

    Returns:
        What `report` holds: the losses, or why the size could not be measured.

    Raises:
        UserError: an input is missing, damaged or cannot be right.
    """
    params = load_params(params_file)
    splits = Splits.open(tokens, params.model.context_length, params.evaluate.windows)
    found = find_weights(size, params.gpt2, weights, params.model.context_length)
    if isinstance(found, str):
        # DVC wants every output to be there, and warns of an empty folder.
        write_text(journal / "no_run.txt", "This size could not be had: there is no run.\n")
        with kept_losses(token_losses, splits, ()):
            written = unavailable_report(size, splits, reason=found)
    else:
        from pipeline.evaluation.size import measure_in_run

        with kept_losses(token_losses, splits, (size,)) as kept:
            keep = partial(kept.append, size)
            measured = measure_in_run(found, splits, params, journal, keep)
        written = baseline_report(size, splits, measured, WeightsReport.read(weights).host)
    written.write(report)
    return written


def find_weights(size: str, settings: Gpt2, report: Path, context_length: int) -> Location | str:
    """Where the weights are that `fetch_gpt2` reported, or the reason why none can be measured.

    Raises:
        UserError: the report is about another size, or they are no longer what was reported.
    """
    found = WeightsReport.read(report)
    if found.model != size:
        raise UserError(f"{report}: is about GPT-2 {quoted(found.model)}, not {size}")
    if found.status != "available":
        return str(found.reason)
    location = locate(size, settings)
    record = FileRecord(location)
    if not record.is_whole or record.digests() != found.files:
        raise UserError(
            f"GPT-2 {size}: the weights are not those of {report}; `dvc repro` looks at them again"
        )
    from pipeline.gpt2.load import hparams_of

    hparams = hparams_of(location)
    if context_length > hparams.n_ctx:
        return f"it reads {hparams.n_ctx} tokens at most; model.context_length is {context_length}"
    if hparams.n_vocab < VOCABULARY:
        return f"it knows {hparams.n_vocab} tokens; GPT-2's encoding has {VOCABULARY}"
    return location


def baseline_report(
    size: str, splits: Splits, measured: MeasuredSize, host: str | None
) -> BaselineReport:
    return BaselineReport(
        model=size,
        status="measured",
        parameters=measured.parameters,
        precision=measured.precision,
        host=host,
        context_length=splits.context_length,
        corpus_sha256=splits.corpus_sha256,
        train=measured.measurement.losses.train,
        val=measured.measurement.losses.val,
        test=measured.measurement.losses.test,
        completions=measured.measurement.completions,
    )


def unavailable_report(size: str, splits: Splits, reason: str) -> BaselineReport:
    return BaselineReport(
        model=size,
        status="unavailable",
        reason=reason,
        context_length=splits.context_length,
        corpus_sha256=splits.corpus_sha256,
    )
