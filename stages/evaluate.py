"""Measure the scratch model over the full splits: untrained, at its best, at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.console import FILE, FOLDER, Command

if TYPE_CHECKING:
    from pipeline.model.gpt import GPT
    from pipeline.model.perplexity import Losses
    from pipeline.params import Compare
    from pipeline.tokens.windows import Windows
    from pipeline.tracking.open_run import Run


@click.command(cls=Command)
@click.option("--params", "params_file", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--tokens", type=FOLDER, required=True, help="Folder of train/ and val/ tokens.")
@click.option("--model", "folder", type=FOLDER, required=True, help="The trained model's folder.")
@click.option("--parent", type=FILE, required=True, help="The train stage's run record.")
@click.option("--report", type=FILE, required=True, help="JSON of losses to write")
@click.option("--metrics", type=FILE, required=True, help="JSON of the headline numbers to write")
@click.option("--token-losses", type=FILE, required=True, help="JSON of losses by token to write")
@click.option("--journal", type=FOLDER, required=True, help="Folder of the run's journal to write.")
def main(
    params_file: Path,
    tokens: Path,
    folder: Path,
    parent: Path,
    report: Path,
    metrics: Path,
    token_losses: Path,
    journal: Path,
) -> None:
    """Loss, perplexity and bits per byte of the untrained, best and last weights."""
    from pipeline.evaluation.scratch import VERSIONS, as_report, load_version, measure_splits
    from pipeline.evaluation.token_losses import shown_losses, shown_targets
    from pipeline.model.saved import load_config
    from pipeline.params import load_params
    from pipeline.system.files import write_json
    from pipeline.system.progress import Progress
    from pipeline.tokens.windows import Windows
    from pipeline.tracking.run import start_run

    params = load_params(params_file)
    batch_size = params.evaluate.batch_size
    length = load_config(folder).context_length
    splits = {name: Windows.open(tokens / name, length) for name in ("train", "val")}
    windows = len(VERSIONS) * sum(map(len, splits.values()))
    measured, shown, completions = {}, {}, {}
    with (
        start_run(
            "evaluate",
            experiment=params.tracking.experiment,
            parent=parent,
            journal=journal,
            description=introduction(splits),
            params={"evaluate.batch_size": batch_size, "compare.prompts": params.compare.prompts},
        ) as run,
        Progress(windows, "evaluate", unit="window") as bar,
    ):
        for version in VERSIONS:
            model = load_version(folder, version, params.gpt2)
            measured[version] = measure_splits(model, splits, batch_size, bar.advance)
            shown[version] = shown_losses(model, splits["val"], batch_size)
            log_losses(run, version, measured[version])
            if version != "untrained":
                completions[version] = complete_all(model, params.compare)
        write_json(report, {**as_report(measured, splits), "completions": completions})
        any_split = splits["val"]
        write_json(
            token_losses,
            {
                "corpus_sha256": any_split.tokens.meta["corpus_sha256"],
                "context_length": length,
                "tokens": shown_targets(any_split),
                "models": shown,
            },
        )
        write_json(metrics, headlines(measured))
        run.log_artifact(report)
        run.log_samples(sample_rows(completions))
        run.describe(f"{introduction(splits)}\n\n{as_table(measured)}")


def headlines(measured: dict[str, dict[str, Losses]]) -> dict[str, float]:
    """What runs are compared by beside their losses, which `train.json` holds."""
    found = {}
    for version, prefix in (("last", ""), ("best", "best_")):
        losses = measured[version]["val"]
        found[f"{prefix}val_perplexity"] = losses.perplexity
        found[f"{prefix}val_bits_per_byte"] = losses.bits_per_byte
    return found


def complete_all(model: GPT, settings: Compare) -> list[dict[str, str]]:
    """Greedy completions of `compare.prompts`, as every GPT-2 gives them."""
    from pipeline.generation.decode import generate
    from pipeline.generation.sampling import Sampling
    from pipeline.tokens.tokenizer import encode

    prompts = [encode(prompt) for prompt in settings.prompts]
    greedy = [Sampling(temperature=0.0)] * len(prompts)
    found = generate(model, prompts, greedy, settings.max_new_tokens)
    return [
        {"prompt": prompt, "completion": completion.text}
        for prompt, completion in zip(settings.prompts, found, strict=True)
    ]


def sample_rows(completions: dict[str, list[dict[str, str]]]) -> list[dict[str, Any]]:
    return [
        {**row, "weights": version, "temperature": 0.0}
        for version, rows in completions.items()
        for row in rows
    ]


def introduction(splits: dict[str, Windows]) -> str:
    """What was measured, in Markdown."""
    windows = splits["val"]
    return (
        f"Losses on **{windows.tokens.meta['corpus']}**: {len(splits['train']):,} training and "
        f"{len(windows):,} validation windows of {windows.context_length} tokens."
    )


def as_table(measured: dict[str, dict[str, Losses]]) -> str:
    """What came of it, in Markdown."""
    lines = ["| weights | training loss | validation loss | perplexity | bits a byte |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for version, losses in measured.items():
        train, val = losses["train"], losses["val"]
        lines.append(
            f"| {version} | {train.loss:.3f} | {val.loss:.3f} | {val.perplexity:,.1f} "
            f"| {val.bits_per_byte:.3f} |"
        )
    return "\n".join(lines)


def log_losses(run: Run, version: str, measured: dict[str, Losses]) -> None:
    for split, losses in measured.items():
        numbers = {f"{version}/{split}_{name}": value for name, value in losses.as_dict().items()}
        run.log_metrics(numbers, step=0)


if __name__ == "__main__":
    main()
