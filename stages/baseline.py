"""Measure one size of OpenAI's GPT-2 on the same tokens, windows and prompts as our model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.console import FILE, FOLDER, Command

if TYPE_CHECKING:
    from pipeline.evaluation.baseline import Baseline
    from pipeline.gpt2.cache import Place
    from pipeline.params import Params
    from pipeline.tokens.windows import Windows
    from pipeline.tracking.open_run import Run


@click.command(cls=Command)
@click.option("--params", "params_file", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--size", required=True, help="124M, 355M, 774M or 1558M.")
@click.option("--tokens", type=FOLDER, required=True, help="Folder of train/ and val/ tokens.")
@click.option("--weights", type=FILE, required=True, help="What fetch_gpt2 reports of the size.")
@click.option("--report", type=FILE, required=True, help="JSON of losses to write.")
@click.option("--token-losses", type=FILE, required=True, help="JSON of losses by token to write.")
@click.option("--journal", type=FOLDER, required=True, help="Folder of the run's journal to write.")
def main(
    params_file: Path,
    size: str,
    tokens: Path,
    weights: Path,
    report: Path,
    token_losses: Path,
    journal: Path,
) -> None:
    """Loss, perplexity, bits per byte and completions of one GPT-2."""
    from pipeline.evaluation.baseline import as_report, as_token_losses, weights_of
    from pipeline.params import load_params
    from pipeline.system.files import write_json, write_text
    from pipeline.tokens.windows import Windows

    params = load_params(params_file)
    length = params.model.context_length
    splits = {name: Windows.open(tokens / name, length) for name in ("train", "val")}
    place = weights_of(size, params.gpt2, weights, length)
    if isinstance(place, str):
        click.echo(f"GPT-2 {size}: unavailable: {place}", err=True)
        # DVC wants every output to be there, and warns of an empty folder.
        write_text(journal / "no_run.txt", "This size could not be had: there is no run.\n")
        found: Baseline | str = place
    else:
        found = measured(place, params, splits, journal)
    write_json(token_losses, as_token_losses(size, splits, found))
    write_json(report, as_report(size, splits, found))


def measured(place: Place, params: Params, splits: dict[str, Windows], journal: Path) -> Baseline:
    """Measure the size in a run of its own, which every experiment on the same data shares."""
    from pipeline.evaluation.baseline import measure_baseline
    from pipeline.model.runtime import choose_runtime
    from pipeline.system.progress import Progress
    from pipeline.tracking.run import start_run

    with start_run(
        "baseline",
        experiment=params.tracking.experiment,
        name=f"gpt2-{place.size}",
        journal=journal,
        description=introduction(place, params.gpt2.precision, splits),
        params={
            "evaluate.batch_size": params.evaluate.batch_size,
            "compare.prompts": params.compare.prompts,
            "gpt2.source": place.source,
        },
        tags={"role": "baseline"},
    ) as run:
        windows = sum(map(len, splits.values()))
        with Progress(windows, f"GPT-2 {place.size}", unit="window") as bar:
            found = measure_baseline(
                place,
                splits,
                params.evaluate.batch_size,
                params.compare,
                precision=params.gpt2.precision,
                device=choose_runtime().device,
                tell=bar.advance,
            )
        log(run, place.size, found)
    return found


def introduction(place: Place, precision: str, splits: dict[str, Windows]) -> str:
    """What was measured, in Markdown."""
    windows = splits["val"]
    return (
        f"OpenAI's GPT-2 {place.size} ({precision}), untouched, on "
        f"**{windows.tokens.meta['corpus']}**: {len(splits['train']):,} training and "
        f"{len(windows):,} validation windows of {windows.context_length} tokens."
    )


def log(run: Run, size: str, found: Baseline) -> None:
    """Losses, under the keys of the scratch model's last weights, to be compared in one chart."""
    run.log_params({"parameters": found.parameters, "precision": found.precision})
    for split, losses in found.losses.items():
        numbers = {f"last/{split}_{name}": value for name, value in losses.as_dict().items()}
        run.log_metrics(numbers)
    run.log_metrics(
        {
            "load_seconds": found.load_seconds,
            "tokens_per_second": found.tokens_per_second,
            **{f"peak_{kind}_gb": peak / 1e9 for kind, peak in found.peak_memory.items()},
        }
    )
    completions = [asdict(completion) for completion in found.completions]
    run.log_samples([{**row, "weights": f"gpt2-{size}", "temperature": 0.0} for row in completions])
    run.log_table(completions, "completions.json")


if __name__ == "__main__":
    main()
