"""Sample from the trained model over temperatures and top-k, and measure what they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.console import FILE, FOLDER, Command

if TYPE_CHECKING:
    from pipeline.model.runtime import Runtime
    from pipeline.params import Gpt2, Params, Sample
    from pipeline.sampling.grid import Scorer, Survey
    from pipeline.tokens.windows import Tokens
    from pipeline.tracking.open_run import Run

HEADLINES = ("distinct_2", "repetition", "copied", "longest_copy")  # that runs are compared by
GRID, NEXT_TOKEN = "samples_grid.png", "samples_next_token.png"


@click.command(cls=Command)
@click.option("--params", "params_file", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--tokens", type=FOLDER, required=True, help="Folder of train/ and val/ tokens.")
@click.option("--model", "folder", type=FOLDER, required=True, help="The trained model's folder.")
@click.option("--parent", type=FILE, required=True, help="The train stage's run record.")
@click.option("--reports", type=FOLDER, required=True, help="Folder to write samples.* to.")
@click.option("--journal", type=FOLDER, required=True, help="Folder of the run's journal to write.")
def main(
    params_file: Path, tokens: Path, folder: Path, parent: Path, reports: Path, journal: Path
) -> None:
    """Sample over the grid of params.yaml's `sample` section, and measure the samples.

    GPT-2 small's judgement of them, which depends on whether it is at hand, goes to MLflow alone.
    """
    from pipeline.model.runtime import keep_freed_memory
    from pipeline.params import Sample, flatten, load_params
    from pipeline.tokens.windows import Tokens
    from pipeline.tracking.naming import run_name
    from pipeline.tracking.run import start_run

    keep_freed_memory()
    params = load_params(params_file)
    settings = flatten(params.sample, "sample.")
    always = ["sample.temperature", "sample.top_k"]
    defaults = flatten(Sample(prompts=params.sample.prompts), "sample.")
    corpus = Tokens.open(tokens / "train")
    with start_run(
        "sample",
        experiment=params.tracking.experiment,
        parent=parent,
        journal=journal,
        name=run_name(settings, defaults, always),
        description=introduction(params.sample),
        params=settings,
    ) as run:
        result = drawn(params, folder, corpus)
        write(reports, result)
        log(run, reports, result)
        measures = result.chosen.measures.as_dict()
        run.describe(f"{introduction(params.sample)}\n\n{as_list(measures)}")


def drawn(params: Params, folder: Path, corpus: Tokens) -> Survey:
    """The samples of the folder's model, measured.

    Here torch is imported, for a second on one core: the run has begun, and is being sent on
    another.
    """
    from pipeline.model.runtime import choose_runtime
    from pipeline.model.saved import load_model
    from pipeline.sampling.grid import survey, tokens_to_draw
    from pipeline.system.progress import Progress

    runtime = choose_runtime()
    model = load_model(folder).to(runtime.device)
    with (
        Progress(tokens_to_draw(params.sample), "draw", unit="token", speed=True) as drawing,
        Progress(len(corpus), "look for copies", unit="training token") as looking,
    ):
        return survey(
            model,
            params.sample,
            corpus,
            scorer=gpt2_scorer(params.gpt2, runtime, looking.say),
            draw=drawing.advance,
            advance=looking.advance,
        )


def introduction(settings: Sample) -> str:
    """What was done, in Markdown."""
    top_k = "all tokens" if settings.top_k is None else f"the {settings.top_k} likeliest tokens"
    grid = len(settings.grid.temperature) * len(settings.grid.top_k)
    return (
        f"Samples of {settings.max_new_tokens} tokens from {len(settings.prompts)} prompts, at "
        f"temperature {settings.temperature:g} over {top_k}, and over a grid of {grid} settings."
    )


def as_list(measures: dict[str, Any]) -> str:
    """What came of the chosen settings, in Markdown."""
    told = {name: value for name in HEADLINES if (value := measures[name]) is not None}
    return "\n".join(f"- {name.replace('_', ' ')}: {value:.4g}" for name, value in told.items())


def gpt2_scorer(settings: Gpt2, runtime: Runtime, say: Callable[[str], None]) -> Scorer | None:
    """GPT-2 small as a judge of the samples, where it is at hand, in the precision that is fast."""
    from pipeline.errors import UserError
    from pipeline.gpt2.load import load_kept
    from pipeline.sampling.metrics import nats_under

    try:
        judge = load_kept("124M", settings).to(runtime.device)
    except UserError as error:
        say(f"no perplexity under GPT-2 small: {error}")
        return None

    def score(prompts: Sequence[Sequence[int]], drawn: Sequence[Sequence[int]]) -> list[float]:
        with runtime.autocast():
            return nats_under(judge, prompts, drawn)

    return score


def write(reports: Path, result: Survey) -> None:
    """Write the figures and the page; the JSON last, as the mark that the rest is there."""
    from pipeline.sampling.markdown import draw, markdown
    from pipeline.system.files import write_json, write_text

    samples = result.as_dict()
    draw(samples, reports / GRID, reports / NEXT_TOKEN)
    write_text(reports / "samples.md", markdown(samples, GRID, NEXT_TOKEN))
    measures = result.chosen.measures.as_dict()
    told = {name: measures[name] for name in HEADLINES if measures[name] is not None}
    write_json(reports / "diversity.json", told)
    write_json(reports / "sampling_grid.json", result.grid_as_dict())
    write_json(reports / "samples.json", samples)


def log(run: Run, reports: Path, result: Survey) -> None:
    """The same for MLflow: a metric a cell, a table that runs can be compared by, the files."""
    run.log_metrics(numbers("chosen", result.chosen.measures.as_dict()))
    for cell in result.grid:
        top_k = "all" if cell.sampling.top_k is None else cell.sampling.top_k
        place = f"grid/t{cell.sampling.temperature:g}-k{top_k}"
        run.log_metrics(numbers(place, cell.measures.as_dict()))
    samples = [sample.as_dict() for sample in result.samples]
    run.log_samples([{**sample, "weights": "last"} for sample in samples])
    cells = [{name: v for name, v in sample.items() if name != "copies"} for sample in samples]
    run.log_table(cells, "samples_measured.json")
    for name in (GRID, NEXT_TOKEN):
        run.log_artifact(reports / name, "figures")
    run.log_artifact(reports / "samples.md")


def numbers(prefix: str, measures: dict[str, Any]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in measures.items() if value is not None}


if __name__ == "__main__":
    main()
