"""The evaluate stage: this repository's model over whole splits."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import cast

from pipeline.evaluation.ensemble import find_ensemble, measure_ensemble
from pipeline.evaluation.logged import evaluation_params, link_losses, log_losses, sample_rows
from pipeline.evaluation.measure import Measurement, measure_model
from pipeline.model.gpt import GPT
from pipeline.model.runtime import choose_runtime
from pipeline.model.saved import FILES, Weights, load_config, load_model
from pipeline.model.start import Start
from pipeline.numbers import shown, to_json
from pipeline.params import Gpt2, load_params
from pipeline.reports import EvaluationReport, PerplexityReport
from pipeline.system.digest_cache import digest_of
from pipeline.system.progress import Progress
from pipeline.tokens.splits import Splits
from pipeline.tokens.token_losses import TokenLosses, kept_losses
from pipeline.tokens.unit_losses import VAL_UNITS, unit_losses
from pipeline.tokens.units import units_of
from pipeline.tracking.open_run import Run
from pipeline.tracking.run import start_run
from pipeline.weights import find_start, starting_model


def evaluate(
    params_file: Path,
    tokens: Path,
    folder: Path,
    parent: Path,
    report: Path,
    metrics: Path,
    token_losses: Path,
    journal: Path,
) -> None:
    """Measure the model in `folder`: untrained, at its best, at the end, perhaps averaged.

    And the ensemble that `evaluate.ensemble` names.

    Args:
        tokens: the folder of `train/`, `val/` and perhaps `test/`.
        parent: `reports/train_run.json`.
        report, metrics: the JSON files to write.
        token_losses: the folder of losses by token to write.
        journal: the folder of the run's journal to write.

    Raises:
        UserError: an input is missing, damaged or cannot be right.
    """
    params = load_params(params_file)
    settings = params.evaluate
    splits = Splits.open(tokens, load_config(folder).context_length, settings.windows)
    members = find_ensemble(settings.ensemble, splits)
    device = choose_runtime().device
    versions = versions_of(folder)
    rows = [*versions, *(["ensemble"] if members else [])]
    measured: dict[str, Measurement] = {}
    with start_run(
        "evaluate",
        experiment=params.tracking.experiment,
        parent=parent,
        journal=journal,
        description=f"Losses on {splits}.",
        params=evaluation_params(params)
        | ({"evaluate.ensemble": settings.ensemble} if members else {}),
    ) as run:
        models = len(versions) + len(members)
        with (
            kept_losses(token_losses, splits, rows) as kept,
            Progress(models * len(splits), "evaluate", unit="window") as bar,
        ):
            for version in versions:
                measured[version] = measure_model(
                    load_version(folder, version, params.gpt2).to(device),
                    splits,
                    settings.batch_size,
                    None if version == "untrained" else params.compare,
                    keep=partial(kept.append, version),
                    progress=bar.advance,
                )
                log_losses(run, version, measured[version].losses)
            ensemble = None
            if members:
                ensemble = measure_ensemble(
                    members,
                    splits,
                    settings.batch_size,
                    device,
                    keep=partial(kept.append, "ensemble"),
                    progress=bar.advance,
                )
                log_losses(run, "ensemble", ensemble)
        found = EvaluationReport(
            corpus_sha256=splits.corpus_sha256,
            context_length=splits.context_length,
            **measured["last"].losses.by_split,
            best=measured["best"].losses,
            untrained=measured["untrained"].losses,
            ema=measured["ema"].losses if "ema" in measured else None,
            ensemble=ensemble,
            completions={v: m.completions for v, m in measured.items() if v != "untrained"},
        )
        # The best weights are the training's logged model; those of the others are not published.
        link_losses(run, splits, measured["best"].losses, digest_of(folder / FILES["best"]))
        found.write(report)
        perplexity_report(found).write(metrics)
        run.log_artifact(report)
        log_val_units(run, splits, TokenLosses.open(token_losses))
        run.log_samples([row for v, m in measured.items() for row in sample_rows(v, m.completions)])
        run.describe(f"Losses on {splits}.\n\n{losses_table(found)}")


def versions_of(folder: Path) -> list[str]:
    """The weights of a training that there are to measure, in the order of the rows."""
    averaged = ["ema"] if (folder / FILES["ema"]).exists() else []
    return ["untrained", "best", "last", *averaged]


def log_val_units(run: Run, splits: Splits, losses: TokenLosses) -> None:
    """Log the validation losses by unit of text, which a sweep reads."""
    units = units_of(splits.val, splits.measured["val"])
    found = unit_losses(units, losses.of("best", "val"), losses.of("last", "val"))
    run.log_text(json.dumps(to_json(found.model_dump())), VAL_UNITS)


def load_version(folder: Path, version: str, gpt2: Gpt2) -> GPT:
    """Load `untrained` (the weights of step 0, made again), or what a training has left."""
    if version == "untrained":
        start = Start.load(folder)
        source = find_start(start.init_from)
        return starting_model(load_config(folder), start, source, gpt2).eval()
    return load_model(folder, cast(Weights, version))


def perplexity_report(found: EvaluationReport) -> PerplexityReport:
    rows = [(name, losses.val) for name, losses in found.measured.items() if name != "untrained"]
    numbers = {}
    for name, val in rows:
        prefix = "" if name == "last" else f"{name}_"
        numbers[f"{prefix}val_perplexity"] = val.perplexity
        numbers[f"{prefix}val_bits_per_byte"] = val.bits_per_byte
    return PerplexityReport(**numbers)


def losses_table(found: EvaluationReport) -> str:
    """The losses of each version as a Markdown table."""
    lines = ["| weights | training loss | validation loss | perplexity | bits per byte |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for version, losses in found.measured.items():
        train, val = losses.train, losses.val
        lines.append(
            f"| {version} | {shown(train.loss)} | {shown(val.loss)} | {shown(val.perplexity, 1)} "
            f"| {shown(val.bits_per_byte)} |"
        )
    return "\n".join(lines)
