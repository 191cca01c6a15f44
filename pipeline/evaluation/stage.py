"""The stages evaluate (this repository's model) and baseline (a size of GPT-2)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from pipeline.evaluation.baseline import MeasuredSize, find_weights, measure_size
from pipeline.evaluation.ensemble import find_ensemble, measure_ensemble
from pipeline.evaluation.measure import Keep, Measurement, measure_model
from pipeline.gpt2.location import FileRecord, Location
from pipeline.model.gpt import GPT
from pipeline.model.runtime import choose_runtime
from pipeline.model.saved import FILES, Weights, load_config, load_model
from pipeline.model.start import Start
from pipeline.numbers import shown, to_json
from pipeline.params import Gpt2, Params, load_params
from pipeline.reports import (
    BaselineReport,
    EvaluationReport,
    PerplexityReport,
    PromptCompletion,
    SplitLosses,
    WeightsReport,
)
from pipeline.system.digest_cache import digest_of
from pipeline.system.files import write_text
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


def evaluation_params(params: Params) -> dict[str, Any]:
    """What a measurement depends on beside model and tokens."""
    return {
        "evaluate.batch_size": params.evaluate.batch_size,
        "evaluate.windows": params.evaluate.windows,
        "compare.prompts": params.compare.prompts,
    }


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
        with kept_losses(token_losses, splits, (size,)) as kept:
            keep = partial(kept.append, size)
            measured = measure_in_run(found, splits, params, journal, keep)
        written = baseline_report(size, splits, measured, WeightsReport.read(weights).host)
    written.write(report)
    return written


def measure_in_run(
    location: Location, splits: Splits, params: Params, journal: Path, keep: Keep
) -> MeasuredSize:
    """Measure the size in a run of its own, which every experiment on the same data shares."""
    size = location.size
    with start_run(
        "baseline",
        experiment=params.tracking.experiment,
        name=f"gpt2-{size}",
        journal=journal,
        description=f"OpenAI's GPT-2 {size} ({params.gpt2.precision}), untouched, on {splits}.",
        params={**evaluation_params(params), "gpt2.source": location.source},
        tags={"role": "baseline"},
    ) as run:
        device = choose_runtime().device
        with Progress(len(splits), f"GPT-2 {size}", unit="window") as bar:
            measured = measure_size(
                location, splits, params, device, keep=keep, progress=bar.advance
            )
        log_size(run, size, measured)
        link_losses(
            run,
            splits,
            measured.measurement.losses,
            FileRecord(location).weights.sha256,
            name=f"gpt2-{size}",
            params={"parameters": measured.parameters, "precision": measured.precision},
        )
    return measured


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


def log_size(run: Run, size: str, measured: MeasuredSize) -> None:
    """Log the losses under the keys of our last weights, so that one chart compares them."""
    run.log_params({"parameters": measured.parameters, "precision": measured.precision})
    log_losses(run, "last", measured.measurement.losses)
    run.log_metrics(
        {
            "load_seconds": measured.load_seconds,
            "tokens_per_second": measured.tokens_per_second,
            **{f"peak_{kind}_gb": peak / 1e9 for kind, peak in measured.peak_memory.items()},
        }
    )
    completions = measured.measurement.completions
    run.log_samples(sample_rows(f"gpt2-{size}", completions))
    run.log_table([completion.model_dump() for completion in completions], "completions.json")


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
